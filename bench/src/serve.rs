//! `farside serve` with a million resources: its memory, and how long the read of one resource takes, in
//! process, over HTTP, and from a NATS key-value bucket with the same data beside it.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, stream};
use bus::{Credentials, managed::ManagedServer};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

use crate::{
    DEADLINE, Outcome, load,
    million::{Million, SITE},
    process,
    read::{self, STRIDE, micros, percentiles},
    report::Section,
};

/// Reads of one kind.
const READS: u64 = 20_000;
/// Keys of the bucket beside it.
const BUCKET_KEYS: u64 = 2_000;
/// The most memory that the service may hold, in bytes.
const MEMORY_MAX: u64 = 400_000_000;

/// Measures on a log that holds the million; `pool` is a pool of it that nobody has open.
pub(crate) async fn run(
    million: &Million<'_>,
    pool: &Path,
    rounds: usize,
    scratch: &Path,
) -> Outcome<Section> {
    let mut section = Section::new(
        "A million resources",
        format!(
            "`farside serve` (the binary) takes in the log of {} resources of about 300 bytes from an empty pool, and \
             then answers {READS} reads. Resident memory as the kernel tells it. Reads one after another, keys in no \
             order: {rounds} rounds of {} in process, {READS} over one HTTP connection, {READS} direct gets from a NATS \
             key-value bucket of {BUCKET_KEYS} of the same resources.",
            million.resources,
            read::READS
        ),
    );
    let mut serve = Serve::start(million.server, SITE, &scratch.join("serve")).await?;
    serve.caught_up(million).await?;
    let after = process::memory(&serve.process()?, "VmRSS")?;
    let http = serve.read(million).await?;
    let reading = process::memory(&serve.process()?, "VmRSS")?;
    let peak = process::memory(&serve.process()?, "VmHWM")?;
    serve.stop().await?;
    let mb = |bytes: u64| format!("{:.0} MB", bytes as f64 / 1e6);
    let worst = after.max(reading);
    let note = format!("{} caught up, {} after the reads; peak {}", mb(after), mb(reading), mb(peak));
    section.judge("resident", mb(worst), note, "≤ 400 MB", worst <= MEMORY_MAX);

    read::in_process(pool, &million.pool, million.resources, rounds)?
        .judge(&mut section, "read in process, p99");
    let (p50, p99) = percentiles(http);
    section.add("read over HTTP, p50", format!("{p50:.0} µs"), format!("p99 {p99:.0} µs"));
    let (p50, p99) = percentiles(from_bucket(million).await?);
    section.add("NATS KV get, p50", format!("{p50:.0} µs"), format!("p99 {p99:.0} µs"));
    Ok(section)
}

async fn from_bucket(million: &Million<'_>) -> Outcome<Vec<f64>> {
    let client = crate::raw_client(million.server).await?;
    let context = jetstream::new(client.clone());
    let config = stream::Config {
        name: "KV_bench".to_owned(),
        subjects: vec!["$KV.bench.>".to_owned()],
        max_messages_per_subject: 1,
        allow_direct: true,
        ..stream::Config::default()
    };
    context.create_stream(config).await?;
    let key = |number: u64| load::key(number).replace('/', ".");
    let mut acks = Vec::new();
    for number in 0..BUCKET_KEYS {
        let value = load::record(number, 0).into();
        acks.push(context.publish(format!("$KV.bench.{}", key(number)), value).await?);
        if acks.len() == 100 {
            for ack in acks.drain(..) {
                ack.await?;
            }
        }
    }
    let mut took = Vec::with_capacity(READS as usize);
    for read in 0..READS {
        let subject = format!("$JS.API.DIRECT.GET.KV_bench.$KV.bench.{}", key(read * STRIDE % BUCKET_KEYS));
        let start = Instant::now();
        let got = client.request(subject, "".into()).await?;
        took.push(micros(start));
        if got.payload.is_empty() {
            return Err("a key is not in the bucket".into());
        }
    }
    Ok(took)
}

/// The binary, as it runs at a user's.
pub(crate) struct Serve {
    child: Child,
    address: String,
    token: String,
}

impl Serve {
    /// Starts one in a directory, which may hold its configuration.
    pub(crate) async fn start(server: &ManagedServer, site: &str, dir: &Path) -> Outcome<Self> {
        std::fs::create_dir_all(dir)?;
        let Credentials::NkeySeedFile(seed) = server.service_credentials() else {
            return Err("the managed server gave no nkey".into());
        };
        let mut child = Command::new(binary()?)
            .args(["serve", "--listen", "127.0.0.1:0", "--sites", site, "--nats", server.url()])
            .arg("--nkey-seed-file")
            .arg(seed)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .env("FARSIDE_LOG", "error")
            .kill_on_drop(true)
            .spawn()?;
        let mut greeting = String::new();
        BufReader::new(child.stdout.take().ok_or("no standard output")?).read_line(&mut greeting).await?;
        let address = greeting.split("http://").nth(1).and_then(|rest| rest.split([' ', ')', ',']).next());
        let address = address.ok_or("farside serve did not say where it listens")?.trim().to_owned();
        let token = std::fs::read_to_string(dir.join("data/operator.token"))?.trim().to_owned();
        Ok(Self { child, address, token })
    }

    /// Waits until its pool has the last resource.
    async fn caught_up(&mut self, million: &Million<'_>) -> Outcome<()> {
        let start = Instant::now();
        let mut connection = Connection::open(self).await?;
        // The API has no way to wait for a pool that is far behind; once a second is enough here.
        let mut second = tokio::time::interval(Duration::from_secs(1));
        while start.elapsed() < DEADLINE {
            second.tick().await;
            let body = connection.get("/v1/pools/million/bench").await?.1;
            if body.contains(&format!("\"resources\":{}", million.resources)) {
                return Ok(());
            }
        }
        Err("farside serve did not catch up".into())
    }

    async fn read(&self, million: &Million<'_>) -> Outcome<Vec<f64>> {
        let mut connection = Connection::open(self).await?;
        let mut took = Vec::with_capacity(READS as usize);
        for read in 0..READS {
            let key = load::key(read * STRIDE % million.resources);
            let start = Instant::now();
            let (status, _) = connection.get(&format!("/v1/pools/million/bench/resources/{key}")).await?;
            took.push(micros(start));
            if status != 200 {
                return Err(format!("{key}: HTTP {status}").into());
            }
        }
        Ok(took)
    }

    /// Its directory below `/proc`.
    pub(crate) fn process(&self) -> Outcome<PathBuf> {
        let pid = self.child.id().ok_or("farside serve has ended")?;
        Ok(PathBuf::from(format!("/proc/{pid}")))
    }

    /// Ends it.
    pub(crate) async fn stop(mut self) -> Outcome<()> {
        self.child.kill().await?;
        Ok(())
    }
}

/// One HTTP connection that is kept.
struct Connection {
    stream: BufReader<TcpStream>,
    host: String,
    token: String,
}

impl Connection {
    async fn open(serve: &Serve) -> Outcome<Self> {
        let stream = TcpStream::connect(&serve.address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), host: serve.address.clone(), token: serve.token.clone() })
    }

    /// The status and the body.
    async fn get(&mut self, path: &str) -> Outcome<(u16, String)> {
        let Self { host, token, .. } = &*self;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).await?;
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(rest) = line.strip_prefix("http/1.1 ") {
                status = rest.split(' ').next().unwrap_or_default().parse()?;
            } else if let Some(rest) = line.strip_prefix("content-length:") {
                length = rest.trim().parse()?;
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        Ok((status, String::from_utf8(body)?))
    }
}

/// `farside`, built beside this program.
pub(crate) fn binary() -> Outcome<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("farside");
    if !beside.exists() {
        return Err(format!("{} is not there; run make bench, which builds it", beside.display()).into());
    }
    Ok(beside)
}
