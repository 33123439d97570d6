//! The kit for the tests of those who build on Farside: its example is what the documentation shows, its errors say
//! what to do.

use std::{fs, path::Path};

use serde_json::json;
use testkit::{Farside, KitError};

use crate::support::refused;

mod warehouse;

#[test]
fn the_documentation_shows_the_example_as_it_is_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/testing.md")).unwrap();
    let example = fs::read_to_string(root.join("tests/kit/warehouse.rs")).unwrap();
    assert!(page.contains(&format!("```rust\n{example}```")), "docs/testing.md shows another example");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_said_with_what_to_do() {
    let farside = Farside::start().await.unwrap();
    let key = refused(farside.publish("dc1", "db-1", &json!({})).await).to_string();
    assert_eq!(key, "\"db-1\" is no key of a resource: it is <kind>/<id>, like VM/db-1");
    let cluster = refused(farside.publish("DC 1", "VM/db-1", &json!({})).await).to_string();
    assert!(cluster.starts_with("\"DC 1\" is no cluster: "), "{cluster}");
    assert!(farside.resource("dc1", "VM/nobody").await.unwrap().is_none());
    let nats = testkit::NatsServer::start().await.unwrap();
    let wrong = refused(Farside::start_on(nats, "no_such_key = 1").await);
    assert!(matches!(&wrong, KitError::Farside { said, .. } if said.contains("no_such_key")), "{wrong}");
}
