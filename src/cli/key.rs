//! `farside key`: access keys (R7). A secret is shown once, and kept nowhere.

use bus_schema::{Name, TenantId, Timestamp};
use clap::{Args, Subcommand};
use console::{
    request,
    view::{KeyMade, KeyView, ListView, StatedView},
};

use super::{CliError, Context, Ended, Output, render::Table, say, tell};

/// Make, rotate, list and revoke access keys
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// List the keys, without their secrets
    #[command(after_help = "Example: farside key list")]
    List,
    Make(Make),
    /// End a key: one that farside made, or for good one that a source announced
    #[command(after_help = "Example: farside key revoke acme-1f2e3d4c")]
    Revoke(Revoke),
}

/// Make a key, or give one a new secret; the secret is shown once
#[derive(Debug, Args)]
#[command(
    after_help = "Example: farside key make acme\n         farside key make acme --key acme-1f2e3d4c   (a new secret for a key that is there)"
)]
pub(crate) struct Make {
    /// The level-1 tenant that it belongs to
    #[arg(value_name = "TENANT")]
    tenant: TenantId,
    /// Its public name [default: a new one]
    #[arg(long, value_name = "KEY_ID")]
    key: Option<Name>,
    /// When it ends, like 2027-01-01T00:00:00Z [default: it does not]
    #[arg(long, value_name = "TIME")]
    not_after: Option<Timestamp>,
}

/// A key by name
#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// The key's public name
    #[arg(value_name = "KEY_ID")]
    key: Name,
}

impl Key {
    pub(crate) async fn run(self, context: &Context) -> Result<Ended, CliError> {
        match self {
            Self::List => {
                let keys: ListView<KeyView> = context.client.get("/v1/keys").await?;
                context.show(&keys, table)?;
            }
            Self::Make(Make { tenant, key, not_after }) => {
                let wanted = request::MakeKey { tenant, key_id: key, not_after };
                let made: KeyMade = context.client.post("/v1/keys", &wanted).await?;
                hand_over(context, &made)?;
            }
            Self::Revoke(Revoke { key }) => {
                let stated: StatedView = context.client.delete(&format!("/v1/keys/{key}")).await?;
                context
                    .show(&stated, |stated| format!("key {key} is revoked: stated at {}\n", stated.place))?;
            }
        }
        Ok(Ended::Done)
    }
}

/// The credential goes to standard output alone, for `K=$(farside key make acme)`; what a person has to
/// know goes beside it.
fn hand_over(context: &Context, made: &KeyMade) -> Result<(), CliError> {
    let (key, tenant) = (&made.key_id, &made.tenant);
    let shown = say(&context.written(made, |made| format!("{}\n", made.credential))?);
    shown.map_err(|error| {
        let again = format!("'farside key make {tenant} --key {key}' gives it a new one");
        CliError::Failed(format!(
            "nobody read the secret of key {key}, and it is not kept ({error}); {again}"
        ))
    })?;
    if context.output == Output::Table {
        tell(&format!(
            "key {key} of tenant {tenant}; this is the only time that its secret is shown\n\
             use it as FARSIDE_TOKEN with --url, or as 'Authorization: Bearer …'"
        ));
    }
    Ok(())
}

fn table(keys: &ListView<KeyView>) -> String {
    let mut table = Table::new(&["KEY", "TENANT", "MADE BY", "SINCE", "ENDS", "STATE"]);
    for key in &keys.items {
        table.row([
            key.key_id.to_string(),
            key.tenant.to_string(),
            key.announced_by.as_ref().map_or("farside".to_owned(), |pool| format!("the source of {pool}")),
            key.since.to_string(),
            key.not_after.map_or("never".to_owned(), |end| end.to_string()),
            key.revoked_at.map_or("good".to_owned(), |at| format!("revoked {at}")),
        ]);
    }
    table.text()
}
