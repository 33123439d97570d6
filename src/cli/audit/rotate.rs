//! `farside audit rotate-key`: a new key signs from here on.

use clap::Args;
use console::ports::SigningKeyView;

use super::super::{CliError, Context, Ended};

/// Let a new key sign checkpoints and evidence from here on; the old one introduces it and is destroyed
#[derive(Debug, Args)]
#[command(after_help = "Example: farside audit rotate-key")]
pub(crate) struct RotateKey {}

impl RotateKey {
    pub(crate) async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let key: SigningKeyView =
            context.client.post("/v1/audit/signing-key", &serde_json::json!({})).await?;
        context.show(&key, |SigningKeyView { key, previous }| {
            let before = previous.as_deref().unwrap_or("none");
            format!("{key} signs from here on, introduced by {before}\nbring the file keys/signing.nk to the farsides that stand by, and the new key to your auditor\n")
        })?;
        Ok(Ended::Done)
    }
}
