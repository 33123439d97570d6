//! The target's part of the configuration: sites, and the policy of each pool (R1, R6).
//!
//! Data only; [`ServiceConfig::policy`] turns it into what the state machines use, and says what is wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use bus::RemoteMirror;
use bus_schema::{Name, PoolId, subject};
use chrono::{DateTime, NaiveTime, Weekday};
use chrono_tz::Tz;
use croner::Cron;
use serde::Deserialize;

use crate::{
    error::ConsumersError,
    log::{Scrubs, checkpoint::When, retention::Keep},
    resource::{
        schedule::{Maintenance, Schedule, Timing},
        state::{Patience, Policy},
        threshold::Limits,
    },
    runtime::scrub::Pace,
    snapshot::{self, thin::Bounds},
    span::Span,
};

/// The shortest period of a schedule, in milliseconds: a sync takes a round trip and two commits.
pub const PERIOD_MS_MIN: u64 = 1_000;
/// The longest jitter, in milliseconds: a longer one would make a schedule unreadable.
pub const JITTER_MS_MAX: u64 = 3_600_000;

/// The smallest size limit of a log, in bytes: room for two of the largest messages.
pub const LOG_BYTES_MIN: i64 = 2 << 20;

/// Most copies of a log: JetStream keeps no more.
const REPLICAS_MAX: usize = 5;

/// What the target service does.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceConfig {
    /// The target's name.
    pub target: Name,
    /// The source sites whose logs are projected.
    pub sites: Vec<Name>,
    /// Size limit of each log, in bytes; a full log refuses events. A log that has a lower one gets this one.
    pub log_bytes_max: Option<i64>,
    /// Copies of each log in a NATS cluster: 1 on one machine, 3 across zones.
    pub log_replicas: usize,
    /// A lease holder that was silent for this long is taken over.
    pub lease_ttl: Span,
    /// The first requests of pools that have no policy of their own.
    pub schedule: ScheduleConfig,
    /// The third requests of pools that have no policy of their own.
    pub threshold: ThresholdConfig,
    /// How long owners are waited for.
    pub patience: PatienceConfig,
    /// When logs are read again to find what they lost.
    pub scrub: ScrubConfig,
    /// When signed checkpoints are stated.
    pub checkpoint: CheckpointConfig,
    /// When pools are stored to start a replay from, and how many are kept.
    pub snapshot: SnapshotConfig,
    /// What is kept of the site logs.
    pub retention: RetentionConfig,
    /// Policies of single pools, by `site/cluster`.
    pub pools: BTreeMap<PoolId, PoolConfig>,
}

/// The policy of one pool; what is absent is taken from the service's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolConfig {
    /// Its schedule.
    pub schedule: Option<ScheduleConfig>,
    /// Its threshold.
    pub threshold: Option<ThresholdConfig>,
}

/// When the first request is due: `every`, or `cron` in `zone`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// A period, at least 1s; 5m when neither this nor `cron` is set.
    pub every: Option<Span>,
    /// A cron pattern of five fields (minute first) or six (second first).
    pub cron: Option<String>,
    /// The time zone of `cron`, like `Europe/Berlin`; UTC when absent.
    pub zone: Option<String>,
    /// The most that the pool's name may delay a run, at most 1h.
    pub jitter: Option<Span>,
    /// Times at which the source is left alone.
    pub maintenance: Vec<MaintenanceConfig>,
}

/// A time at which the source is left alone, but for what a person asks.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaintenanceConfig {
    /// The days on which it begins (`mon`, `tue`, …); empty = every day.
    #[serde(default)]
    pub days: Vec<String>,
    /// When it begins, `HH:MM`.
    pub from: String,
    /// When it ends, `HH:MM`; not after `from` = on the next day.
    pub to: String,
    /// Whose clock that is; UTC when absent.
    pub zone: Option<String>,
}

/// When the third request is due; a limit of 0 is off.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ThresholdConfig {
    /// Changes since the last sync, full pushes and notices alike.
    pub changes: u64,
    /// Bytes of state since the last sync, pushed or announced.
    pub bytes: u64,
    /// Age of the oldest notice whose state the pool lacks.
    pub age: Span,
    /// How long the threshold rests after a third request, so that a storm makes one sync at a time.
    pub rest: Span,
}

/// When logs are read again to find what they lost without a word.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScrubConfig {
    /// The time between two scrubs of a log; 0s = only when something asks for one.
    pub every: Span,
    /// How fast one may read that nobody waits for, in MiB of event data a second; 0 = as fast as it goes.
    pub mib_per_s: u32,
}

/// When signed checkpoints are stated: whichever comes first, if anything has changed.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// After so many events of all logs; 0 = not by their number.
    pub events: u64,
    /// After this time; 0s = not by time.
    pub every: Span,
}

/// When pools are stored at a signed checkpoint: whichever comes first, if anything has changed.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotConfig {
    /// After so many events of a site log; 0 = not by their number.
    pub events: u64,
    /// After this time; 0s = not by time. With neither, none is taken.
    pub every: Span,
    /// Most that are kept of one log; the newest two always are.
    pub keep: usize,
    /// Most room that those of one log may take, in MiB; the newest two always are kept.
    pub keep_mib: u32,
}

/// What is kept of the site logs; with neither an age nor a size, all of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// At least what is younger; 0s = nothing goes because of its age.
    pub age: Span,
    /// Most that is kept of each log, in MiB, as far as snapshots let the rest go; 0 = nothing goes because of its size.
    pub mib: u32,
    /// Mirrors in other JetStream domains, which are to have what goes.
    pub mirrors: Vec<RemoteMirror>,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { age: Span::from_ms(0), mib: 0, mirrors: vec![] }
    }
}

impl RetentionConfig {
    /// As the trimmer uses it.
    pub(crate) fn keep(&self) -> Keep {
        let is_on = |value: u64| (value > 0).then_some(value);
        Keep { age_ms: is_on(self.age.ms()), bytes: is_on(u64::from(self.mib) << 20) }
    }
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self { events: 250_000, every: Span::from_ms(3_600_000), keep: 64, keep_mib: 8_192 }
    }
}

impl SnapshotConfig {
    /// As the keeper uses it.
    pub(crate) fn read(self) -> snapshot::keeper::When {
        let is_on = |value: u64| (value > 0).then_some(value);
        let bounds = Bounds { count_max: self.keep, bytes_max: u64::from(self.keep_mib) << 20 };
        snapshot::keeper::When { events: is_on(self.events), every_ms: is_on(self.every.ms()), bounds }
    }
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { events: 100_000, every: Span::from_ms(600_000) }
    }
}

impl CheckpointConfig {
    /// As the checkpoints use it.
    pub(crate) fn read(self) -> When {
        let is_on = |value: u64| (value > 0).then_some(value);
        When { events: is_on(self.events), every_ms: is_on(self.every.ms()) }
    }
}

impl Default for ScrubConfig {
    fn default() -> Self {
        Self { every: Span::from_ms(24 * 3_600_000), mib_per_s: 32 }
    }
}

impl ScrubConfig {
    /// As the scrubs use it.
    pub(crate) fn read(self) -> Scrubs {
        let bytes_per_s = Some(u64::from(self.mib_per_s) << 20).filter(|rate| *rate > 0);
        let every_ms = Some(self.every.ms()).filter(|every| *every > 0);
        Scrubs { every_ms, pace: Pace { bytes_per_s } }
    }
}

/// How long owners are waited for.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PatienceConfig {
    /// How long an agent may take to answer a request.
    pub answer: Span,
    /// The rest after the first failure; it doubles with each further one.
    pub backoff: Span,
    /// The longest rest.
    pub backoff_max: Span,
    /// How long an accepted sync may bring nothing before it is asked for again.
    pub stalled: Span,
    /// How often it is asked for again before it has failed.
    pub resumes: u32,
    /// How long an answer may take as a whole, however much comes.
    pub longest: Span,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            target: local(),
            sites: vec![local()],
            log_bytes_max: None,
            log_replicas: 1,
            lease_ttl: Span::from_ms(5_000),
            schedule: ScheduleConfig::default(),
            threshold: ThresholdConfig::default(),
            patience: PatienceConfig::default(),
            scrub: ScrubConfig::default(),
            checkpoint: CheckpointConfig::default(),
            snapshot: SnapshotConfig::default(),
            retention: RetentionConfig::default(),
            pools: BTreeMap::new(),
        }
    }
}

impl Default for ThresholdConfig {
    fn default() -> Self {
        Self { changes: 1_000, bytes: 16 << 20, age: Span::from_ms(60_000), rest: Span::from_ms(5_000) }
    }
}

impl Default for PatienceConfig {
    fn default() -> Self {
        Self {
            answer: Span::from_ms(5_000),
            backoff: Span::from_ms(1_000),
            backoff_max: Span::from_ms(300_000),
            stalled: Span::from_ms(30_000),
            resumes: 5,
            longest: Span::from_ms(6 * 3_600_000),
        }
    }
}

#[allow(clippy::expect_used, reason = "the constant obeys the rule of names, and a test reads the default")]
fn local() -> Name {
    bus_schema::subject::LOCAL.parse().expect("`local` is a name")
}

impl ServiceConfig {
    /// The policy of a pool. Errors: what is wrong in its configuration.
    pub fn policy(&self, pool: &PoolId) -> Result<Policy, ConsumersError> {
        let own = self.pools.get(pool);
        let schedule = own.and_then(|own| own.schedule.as_ref()).unwrap_or(&self.schedule);
        let threshold = own.and_then(|own| own.threshold).unwrap_or(self.threshold);
        let schedule = schedule.read().map_err(|reason| wrong(format!("the schedule of {pool}"), reason))?;
        let PatienceConfig { backoff, backoff_max, stalled, resumes, longest, .. } = self.patience;
        let patience = Patience {
            backoff_ms: backoff.ms().max(1),
            backoff_ms_max: backoff_max.ms().max(backoff.ms()),
            stalled_ms_max: stalled.ms(),
            resumes_max: resumes,
            answer_ms_max: longest.ms().max(stalled.ms()),
        };
        Ok(Policy { schedule, limits: threshold.read(), patience })
    }

    /// Reads everything once, so that a mistake is told at the start. Errors: the first mistake.
    pub fn check(&self) -> Result<(), ConsumersError> {
        if self.sites.is_empty() {
            return Err(wrong("sites".to_owned(), "no site is named; write sites = [\"local\"]".to_owned()));
        }
        let mut sites = BTreeSet::new();
        if let Some(twice) = self.sites.iter().find(|site| !sites.insert(*site)) {
            return Err(wrong("sites".to_owned(), format!("{twice} is named twice; write it once")));
        }
        if let Some(bytes) = self.log_bytes_max.filter(|bytes| *bytes < LOG_BYTES_MIN) {
            return Err(wrong(
                "log_bytes_max".to_owned(),
                format!("a log of {bytes} bytes holds too little; write {LOG_BYTES_MIN} or more"),
            ));
        }
        if !(1..=REPLICAS_MAX).contains(&self.log_replicas) {
            return Err(wrong(
                "log_replicas".to_owned(),
                format!("{} copies cannot be kept; write 1 to {REPLICAS_MAX}", self.log_replicas),
            ));
        }
        if self.lease_ttl.ms() < PERIOD_MS_MIN {
            return Err(wrong(
                "lease_ttl".to_owned(),
                format!("{} is too short; write at least 1s", self.lease_ttl),
            ));
        }
        self.check_retention().map_err(|reason| wrong("retention".to_owned(), reason))?;
        self.schedule.read().map_err(|reason| wrong("the schedule".to_owned(), reason))?;
        self.pools.keys().try_for_each(|pool| {
            if !self.sites.contains(&pool.site) {
                let reason = format!("the site {} is not among `sites`; add it there", pool.site);
                return Err(wrong(format!("the pool {pool}"), reason));
            }
            self.policy(pool).map(drop)
        })
    }
}

impl ServiceConfig {
    fn check_retention(&self) -> Result<(), String> {
        let keep = self.retention.keep();
        let has_checkpoints = self.checkpoint.read() != When { events: None, every_ms: None };
        let snapshots = self.snapshot.read();
        let has_snapshots = (snapshots.events, snapshots.every_ms) != (None, None);
        if keep != Keep::default() && !(has_checkpoints && has_snapshots) {
            return Err(
                "logs are trimmed behind snapshots at signed checkpoints only; switch `snapshot` and `checkpoint` on"
                    .to_owned(),
            );
        }
        let limit = self.log_bytes_max.and_then(|bytes| u64::try_from(bytes).ok());
        if let Some((keeps, limit)) = keep.bytes.zip(limit).filter(|(keeps, limit)| keeps >= limit) {
            return Err(format!(
                "{keeps} bytes are never reached: a log is full at {limit} (`log_bytes_max`); write less"
            ));
        }
        let streams: Vec<_> = self.sites.iter().map(subject::site_stream).collect();
        match self.retention.mirrors.iter().find(|mirror| !streams.contains(&mirror.of)) {
            Some(mirror) => Err(format!(
                "{mirror} is of {}, which is none of the logs; write one of {}",
                mirror.of,
                streams.join(", ")
            )),
            None => Ok(()),
        }
    }
}

fn wrong(what: String, reason: String) -> ConsumersError {
    ConsumersError::Config { what, reason }
}

impl ScheduleConfig {
    fn read(&self) -> Result<Schedule, String> {
        let timing = match (self.every, &self.cron) {
            (Some(_), Some(_)) => return Err("it has both `every` and `cron`; keep one of them".to_owned()),
            (None, Some(pattern)) => cron(pattern, self.zone.as_deref())?,
            (_, None) if self.zone.is_some() => {
                return Err("`zone` goes with `cron`; a period needs no time zone".to_owned());
            }
            (every, None) => Timing::Every(every.unwrap_or(Span::from_ms(300_000)).ms()),
        };
        if matches!(timing, Timing::Every(period_ms) if period_ms < PERIOD_MS_MIN) {
            return Err("`every` is shorter than 1s; write 1s or more".to_owned());
        }
        let jitter_ms_max = self.jitter.map_or(0, Span::ms);
        if jitter_ms_max > JITTER_MS_MAX {
            return Err("`jitter` is longer than 1h; write 1h or less".to_owned());
        }
        let maintenance = self.maintenance.iter().map(MaintenanceConfig::read).collect::<Result<_, _>>()?;
        Ok(Schedule { timing, jitter_ms_max, maintenance })
    }
}

fn cron(pattern: &str, zone_name: Option<&str>) -> Result<Timing, String> {
    let cron = Cron::from_str(pattern).map_err(|e| {
        format!("`cron` {pattern:?} cannot be read: {e}; write minute hour day month weekday")
    })?;
    let zone = zone(zone_name)?;
    // From any moment on: a pattern repeats itself, so one that has no moment never has one.
    if cron.find_next_occurrence(&DateTime::UNIX_EPOCH.with_timezone(&zone), false).is_err() {
        return Err(format!("`cron` {pattern:?} is never due; write a day that its months have"));
    }
    Ok(Timing::Cron(Box::new(cron), zone))
}

fn zone(name: Option<&str>) -> Result<Tz, String> {
    name.map_or(Ok(Tz::UTC), |name| {
        name.parse().map_err(|_| format!("the time zone {name:?} is unknown; write one like Europe/Berlin"))
    })
}

impl MaintenanceConfig {
    fn read(&self) -> Result<Maintenance, String> {
        let time = |text: &str| {
            NaiveTime::parse_from_str(text, "%H:%M")
                .map_err(|_| format!("{text:?} is not a time of day; write HH:MM"))
        };
        let day = |text: &String| {
            text.parse::<Weekday>()
                .map_err(|_| format!("{text:?} is not a weekday; write mon, tue, wed, thu, fri, sat or sun"))
        };
        let days = self.days.iter().map(day).collect::<Result<_, _>>()?;
        Ok(Maintenance {
            days,
            from: time(&self.from)?,
            to: time(&self.to)?,
            zone: zone(self.zone.as_deref())?,
        })
    }
}

impl ThresholdConfig {
    fn read(self) -> Limits {
        let limit = |value: u64| (value > 0).then_some(value);
        Limits {
            changes_max: limit(self.changes),
            bytes_max: limit(self.bytes),
            age_ms_max: limit(self.age.ms()),
            rest_ms: self.rest.ms(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<ServiceConfig, serde_json::Error> {
        serde_json::from_str(json)
    }

    fn error(json: &str) -> String {
        match read(json) {
            Err(error) => error.to_string(),
            Ok(config) => config.check().unwrap_err().to_string(),
        }
    }

    #[test]
    fn an_empty_configuration_is_a_whole_one() {
        let config = read("{}").unwrap();
        config.check().unwrap();
        let policy = config.policy(&"local/dc1".parse().unwrap()).unwrap();
        assert_eq!(policy.schedule.timing, Timing::Every(300_000));
        assert_eq!(policy.limits.changes_max, Some(1_000));
    }

    #[test]
    fn r1_each_pool_may_have_its_own_policy() {
        let config = read(
            r#"{"schedule":{"every":"10m"},"pools":{"local/dc1":{"schedule":{"cron":"0 3 * * *","zone":"Europe/Berlin"}},
                "local/dc2":{"threshold":{"changes":0,"bytes":5}}}}"#,
        )
        .unwrap();
        config.check().unwrap();
        let policy = |pool: &str| config.policy(&pool.parse().unwrap()).unwrap();
        assert!(matches!(policy("local/dc1").schedule.timing, Timing::Cron(_, Tz::Europe__Berlin)));
        let dc2 = policy("local/dc2");
        assert_eq!(dc2.schedule.timing, Timing::Every(600_000));
        assert_eq!((dc2.limits.changes_max, dc2.limits.bytes_max), (None, Some(5)));
    }

    #[test]
    fn the_rarest_cron_pattern_that_is_ever_due_is_good() {
        read(r#"{"schedule":{"cron":"0 0 29 2 *"},"log_bytes_max":2097152}"#).unwrap().check().unwrap();
    }

    #[test]
    fn mistakes_are_told_with_what_to_write() {
        for (json, hint) in [
            (r#"{"shedule":{}}"#, "shedule"),
            (r#"{"schedule":{"every":"5"}}"#, "5m"),
            (r#"{"schedule":{"every":"10ms"}}"#, "1s or more"),
            (r#"{"schedule":{"every":"5m","cron":"* * * * *"}}"#, "keep one"),
            (r#"{"schedule":{"cron":"every day"}}"#, "minute hour"),
            (r#"{"schedule":{"cron":"* * * * *","zone":"Mars"}}"#, "Europe/Berlin"),
            (r#"{"schedule":{"every":"5m","jitter":"2h"}}"#, "1h or less"),
            (r#"{"schedule":{"maintenance":[{"from":"25:00","to":"01:00"}]}}"#, "HH:MM"),
            (r#"{"schedule":{"maintenance":[{"days":["noday"],"from":"00:00","to":"01:00"}]}}"#, "weekday"),
            (r#"{"pools":{"other/dc1":{}}}"#, "among `sites`"),
            (r#"{"sites":[]}"#, "no site"),
            (r#"{"sites":["a","b","a"]}"#, "a is named twice; write it once"),
            (r#"{"log_bytes_max":10}"#, "write 2097152 or more"),
            (r#"{"log_bytes_max":-1}"#, "write 2097152 or more"),
            (r#"{"schedule":{"cron":"0 0 30 2 *"}}"#, "is never due"),
            (
                r#"{"pools":{"local/dc1":{"schedule":{"cron":"0 0 31 4,6 *","zone":"Europe/Berlin"}}}}"#,
                "never due",
            ),
            (r#"{"lease_ttl":"10ms"}"#, "at least 1s"),
            (r#"{"log_replicas":0}"#, "1 to 5"),
            (r#"{"log_replicas":6}"#, "1 to 5"),
        ] {
            let text = error(json);
            assert!(text.contains(hint), "{json}: {text}");
        }
    }
}
