//! A nats-server in a container, through testcontainers. Its directory is the same inside and outside, and its ports
//! are mapped to loopback only, so that nothing of this machine's tests can be reached from elsewhere.

use std::{collections::HashMap, env};

use futures_util::StreamExt;
use testcontainers::{
    ContainerAsync, GenericImage, ImageExt,
    bollard::models::{HostConfig, PortBinding},
    core::{IntoContainerPort, Mount, client::docker_client_instance},
    runners::AsyncRunner,
};

use super::{Config, OUTPUT, free_port};
use crate::KitError;

/// The official image's name, and the version that the rest of the suite runs.
const IMAGE: (&str, &str) = ("nats", "2.15.1");
/// Inside the container.
const PORT: u16 = 4222;
const MONITOR_PORT: u16 = 8222;
/// How often other ports are tried when somebody takes them between the choice and the start.
const PORT_TRIES: u32 = 3;
/// How long a server that is asked to end may take, in seconds.
const STOP_S: i32 = 30;

#[derive(Debug)]
pub(super) struct Container {
    container: ContainerAsync<GenericImage>,
    pub(super) ports: (u16, u16),
}

impl Container {
    pub(super) async fn start(config: Config) -> Result<Self, KitError> {
        let output = config.dir.join(OUTPUT);
        let path = config.write(&format!(
            "host: 0.0.0.0\nport: {PORT}\nhttp: \"0.0.0.0:{MONITOR_PORT}\"\nlog_file: {output:?}"
        ))?;
        let (path, dir) = (path.display().to_string(), config.dir.display().to_string());
        let mut tries = 1;
        loop {
            let ports = (free_port()?, free_port()?);
            let image = GenericImage::new(name(), version())
                .with_exposed_port(PORT.tcp())
                .with_exposed_port(MONITOR_PORT.tcp())
                .with_cmd(["-c", &path])
                .with_mount(Mount::bind_mount(&dir, &dir))
                .with_host_config_modifier(move |host| map(host, ports));
            match image.start().await {
                Ok(container) => return Ok(Self { container, ports }),
                Err(_) if tries < PORT_TRIES => tries += 1,
                Err(error) => return Err(failed("start")(error)),
            }
        }
    }

    pub(super) async fn start_again(&self) -> Result<(), KitError> {
        self.container.start().await.map_err(failed("start"))
    }

    pub(super) async fn stop(&self) -> Result<(), KitError> {
        self.container.stop_with_timeout(Some(STOP_S)).await.map_err(failed("stop"))
    }

    /// By SIGKILL: Docker's way to stop would ask first.
    pub(super) async fn kill(&self) -> Result<(), KitError> {
        let docker = docker_client_instance().await.map_err(failed("kill"))?;
        docker.kill_container(self.container.id(), None).await.map_err(failed("kill"))?;
        // It says how the container ended: an error for any other code than 0, which is what a kill gives.
        docker.wait_container(self.container.id(), None).next().await;
        Ok(())
    }
}

fn map(host: &mut HostConfig, (port, monitor): (u16, u16)) {
    let bound = |port: u16| {
        let (host_ip, host_port) = (Some("127.0.0.1".to_owned()), Some(port.to_string()));
        Some(vec![PortBinding { host_ip, host_port }])
    };
    let ports = [(PORT, port), (MONITOR_PORT, monitor)];
    let ports = ports.map(|(inside, outside)| (format!("{inside}/tcp"), bound(outside)));
    host.port_bindings = Some(HashMap::from(ports));
    host.publish_all_ports = Some(false);
}

/// `FARSIDE_TESTKIT_NATS_IMAGE`, `name:tag`, names another one.
fn image() -> String {
    let named = env::var("FARSIDE_TESTKIT_NATS_IMAGE").ok().filter(|image| image.contains(':'));
    named.unwrap_or_else(|| format!("{}:{}", IMAGE.0, IMAGE.1))
}

fn name() -> String {
    image().rsplit_once(':').map(|(name, _)| name.to_owned()).unwrap_or_default()
}

fn version() -> String {
    image().rsplit_once(':').map(|(_, version)| version.to_owned()).unwrap_or_default()
}

fn failed<E: std::fmt::Display>(verb: &'static str) -> impl FnOnce(E) -> KitError {
    move |error| KitError::Container { verb, image: image(), reason: error.to_string() }
}
