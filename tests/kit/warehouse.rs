//! A program that tells Farside what stands on its shelves, and its test.

use serde_json::json;
use testkit::Farside;

/// What is tested: a program of yours that tells Farside what stands on a shelf.
async fn take_stock(farside: &Farside) -> Result<(), testkit::KitError> {
    for (shelf, pallets) in [("Shelf/a-1", 12), ("Shelf/a-2", 0)] {
        farside.publish("warehouse", shelf, &json!({ "pallets": pallets })).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_far_side_knows_what_stands_on_the_shelves() -> Result<(), testkit::KitError> {
    let mut farside = Farside::start().await?;
    take_stock(&farside).await?;
    let shelf = farside.shows("warehouse", "Shelf/a-1", |row| row["state"]["pallets"] == 12).await?;
    assert!(shelf["place"].as_str().is_some_and(|place| place.starts_with("FARSIDE_LOCAL:")), "{shelf}");

    // The day that it is for: both die, and nothing is lost.
    farside.nats().kill().await?;
    farside.nats().start_again().await?;
    farside.kill_and_start_again().await?;
    farside.publish("warehouse", "Shelf/a-2", &json!({ "pallets": 7 })).await?;
    farside.shows("warehouse", "Shelf/a-2", |row| row["state"]["pallets"] == 7).await?;
    assert!(farside.resource("warehouse", "Shelf/a-1").await?.is_some());
    Ok(())
}
