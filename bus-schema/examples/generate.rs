//! Writes the JSON Schemas and the AsyncAPI document into `bus-schema/`: `make schema`.

use std::{error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let room = Path::new(env!("CARGO_MANIFEST_DIR"));
    // What a renamed event leaves behind must go, so the folder is made anew.
    let schemas = room.join("schema");
    if schemas.exists() {
        fs::remove_dir_all(&schemas)?;
    }
    for file in bus_schema::schema::files() {
        let path = room.join(&file.path);
        fs::create_dir_all(path.parent().unwrap_or(room))?;
        fs::write(path, file.text())?;
    }
    Ok(())
}
