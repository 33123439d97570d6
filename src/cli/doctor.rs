//! `farside doctor`: looks at the surroundings and says what to do.

use bus_schema::{Timestamp, subject};
use clap::Args;
use serde::Serialize;

use super::{CliError, Context, Ended, render::Table};
use crate::config::Overrides;

mod local;
mod nats;

/// Check the surroundings: NATS, durability, disk, clock, permissions, port; exit code 1 if anything is not OK
#[derive(Debug, Args)]
#[command(
    after_help = "Example: farside doctor\n         farside doctor --nats nats://127.0.0.1:4222 --monitor-url http://127.0.0.1:8222"
)]
pub(crate) struct Doctor {
    #[command(flatten)]
    overrides: Overrides,
}

/// How well one thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Verdict {
    Ok,
    Warn,
    Fail,
    Unknown,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), advice: None }
    }

    fn not_ok(
        check: &'static str,
        verdict: Verdict,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { check, verdict, found: found.into(), advice: Some(advice.into()) }
    }
}

impl Doctor {
    pub(crate) async fn run(self, mut context: Context) -> Result<Ended, CliError> {
        self.overrides.apply(&mut context.config);
        let mut findings = nats::look(&context.config).await;
        findings.extend(local::look(&context).await);
        context.show(&findings, |findings| table(findings))?;
        let well = findings.iter().all(|finding| finding.verdict == Verdict::Ok);
        Ok(if well { Ended::Done } else { Ended::NotWell })
    }
}

fn table(findings: &[Finding]) -> String {
    let mut table = Table::new(&["", "CHECK", "FOUND"]);
    for finding in findings {
        let verdict = format!("{:?}", finding.verdict).to_uppercase();
        table.row([verdict, finding.check.to_owned(), finding.found.clone()]);
    }
    let mut text = table.text();
    let advised = findings.iter().filter_map(|finding| Some((finding.check, finding.advice.as_ref()?)));
    for (check, advice) in advised {
        text += &format!("\n{check}: {advice}");
    }
    if findings.iter().any(|finding| finding.advice.is_some()) {
        text.push('\n');
    }
    text
}

/// What the clocks of this machine and of the NATS server say about each other, from a message that the
/// server stored a moment ago.
fn clocks(stored_at: Timestamp, now: Timestamp, age_ms_max: u64) -> Finding {
    /// Clocks that differ by more than this make lag and `--at TIME` misleading.
    const AHEAD_MS_MAX: u64 = 1_000;
    let check = "clock";
    let advice = "let chrony or ntpd run on both machines";
    let (ahead, behind) = (stored_at.ms_since(now), now.ms_since(stored_at));
    if ahead > AHEAD_MS_MAX {
        return Finding::not_ok(
            check,
            Verdict::Warn,
            format!("the server's clock is {ahead} ms ahead of this one"),
            advice,
        );
    }
    if behind > age_ms_max {
        let found = format!(
            "the last renewal of the lease is {behind} ms old: the service stands still, or its server's clock is behind"
        );
        return Finding::not_ok(
            check,
            Verdict::Unknown,
            found,
            format!("look at 'farside status'; {advice}"),
        );
    }
    Finding::ok(check, format!("this clock and the server's agree within {} ms", behind.max(ahead)))
}

/// Where the holder of the target's lease renews it.
fn renewals(context: &crate::config::Config) -> Option<(String, String)> {
    let target = &context.service.target;
    let lease = subject::TARGET_LEASE.parse().ok()?;
    Some((subject::lease_stream(target), subject::lease_renewal(target, &lease)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_disagree_are_told() {
        let at = Timestamp::from_unix_ms;
        assert_eq!(clocks(at(10_000), at(10_400), 5_000).verdict, Verdict::Ok);
        assert_eq!(clocks(at(12_000), at(10_000), 5_000).verdict, Verdict::Warn);
        assert_eq!(clocks(at(10_000), at(20_000), 5_000).verdict, Verdict::Unknown);
    }

    #[test]
    fn what_is_not_ok_says_what_to_do() {
        let text =
            table(&[Finding::ok("a", "fine"), Finding::not_ok("b", Verdict::Fail, "broken", "mend it")]);
        assert!(text.contains("OK") && text.contains("FAIL") && text.ends_with("b: mend it\n"), "{text}");
    }
}
