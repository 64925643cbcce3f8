//! Costs at scale: many due rows, endpoints, relays.

mod endpoints;
mod relays;
mod rows;

use anyhow::Result;

use super::lab::Lab;

pub(crate) async fn measure(lab: &mut Lab) -> Result<()> {
    rows::measure(lab).await?;
    println!();
    endpoints::measure(lab).await?;
    println!();
    relays::measure(lab).await
}
