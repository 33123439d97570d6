//! What the doctor sees of NATS: reachable, new enough, durable, in step.

use bus::{
    Bus, ConnectOptions, ServerVerdict,
    doctor::{SyncAlways, sync_always},
    managed,
};

use super::{Finding, Verdict, clocks, renewals};
use crate::{
    app::{NatsAddress, SYNC_ADVICE},
    cli::render::now,
    config::Config,
};

pub(super) async fn look(config: &Config) -> Vec<Finding> {
    let managed = NatsAddress::read(&config.nats_address_file());
    let name = "farside doctor";
    let (options, is_managed) = match (config.nats.connect_options(name), &managed) {
        (Err(error), _) => {
            return vec![Finding::not_ok("nats", Verdict::Fail, error.to_string(), "mend the configuration")];
        }
        (Ok(Some(options)), _) => (options, false),
        (Ok(None), Some(managed)) => (managed.service_options(name), true),
        (Ok(None), None) => return binary(config),
    };
    let mut findings = server(config, options).await;
    findings.push(durability(config.nats.monitor_url.as_deref(), is_managed).await);
    findings
}

/// No NATS is configured and none runs: what 'farside up' would start.
fn binary(config: &Config) -> Vec<Finding> {
    let found = match managed::find_binary(config.nats.binary.as_deref()) {
        Ok(path) => Finding::ok("nats-server", format!("{} is what 'farside up' runs", path.display())),
        Err(error) => Finding::not_ok(
            "nats-server",
            Verdict::Fail,
            error.to_string(),
            "install nats-server 2.15.1 or newer, or name it with --nats-server",
        ),
    };
    let advice = "start 'farside up', or name a server with --nats nats://host:port, then ask again";
    vec![
        found,
        Finding::not_ok(
            "nats",
            Verdict::Unknown,
            "no NATS is configured, and no 'farside up' runs here",
            advice,
        ),
    ]
}

async fn server(config: &Config, options: ConnectOptions) -> Vec<Finding> {
    let servers = options.servers.clone();
    let bus = match Bus::connect(options).await {
        Ok(bus) => bus,
        Err(error) => {
            let advice = "the text says what; nothing else of NATS can be checked before";
            return vec![Finding::not_ok("nats", Verdict::Fail, error.to_string(), advice)];
        }
    };
    let facts = bus.server();
    let version = format!("nats-server {} at {servers}", facts.version);
    let mut findings = vec![match facts.verdict {
        ServerVerdict::Fine => Finding::ok("nats", version),
        ServerVerdict::Missing(missing) => Finding::not_ok(
            "nats",
            Verdict::Warn,
            format!("{version}: {}", missing.join("; ")),
            "run 2.15.1 or newer",
        ),
        ServerVerdict::TooOld => Finding::not_ok("nats", Verdict::Fail, version, "run 2.15.1 or newer"),
    }];
    findings.push(clock(config, &bus).await);
    bus.drain().await;
    findings
}

async fn clock(config: &Config, bus: &Bus) -> Finding {
    let unknown = |found: String| {
        Finding::not_ok(
            "clock",
            Verdict::Unknown,
            found,
            "start 'farside up' or 'farside serve' against this server, then ask again",
        )
    };
    let Some((stream, subject)) = renewals(config) else {
        return unknown("the lease has no name".to_owned());
    };
    match bus.last_message(&stream, &subject).await {
        Ok(Some(renewal)) => clocks(renewal.stored_at(), now(), config.service.lease_ttl.ms()),
        Ok(None) => {
            unknown("no process holds the lease, so there is no fresh message to compare with".to_owned())
        }
        Err(bus::BusError::NoStream { .. }) => unknown(
            "the server has no log of this target yet, so there is no message to compare with".to_owned(),
        ),
        Err(error) => unknown(format!("the server was not asked for its time: {error}")),
    }
}

/// Whether the server syncs before it acknowledges: a client cannot see that, so not knowing is not OK.
async fn durability(monitor_url: Option<&str>, is_managed: bool) -> Finding {
    let check = "sync_interval";
    match (monitor_url, is_managed) {
        (None, true) => Finding::ok(check, "always: farside's own nats-server is configured so"),
        (None, false) => Finding::not_ok(
            check,
            Verdict::Unknown,
            "unknown: a client cannot see whether the server syncs every message to disk",
            format!(
                "start the server with a monitor port (http_port: 8222) and ask with --monitor-url http://host:8222; {SYNC_ADVICE}"
            ),
        ),
        (Some(url), _) => match sync_always(url).await {
            SyncAlways::Yes => Finding::ok(check, "always: what is acknowledged is on the disk"),
            SyncAlways::No { interval } => Finding::not_ok(
                check,
                Verdict::Fail,
                format!(
                    "the server lacks 'sync_interval: always': up to {} s of acknowledged events are lost with the power",
                    interval.as_secs()
                ),
                SYNC_ADVICE,
            ),
            SyncAlways::Unknown { reason } => Finding::not_ok(
                check,
                Verdict::Unknown,
                format!("unknown: {reason}"),
                format!("ask with --monitor-url http://host:8222; {SYNC_ADVICE}"),
            ),
        },
    }
}
