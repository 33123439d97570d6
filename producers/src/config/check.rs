//! What fits its type and not its use: told before anything runs, with what to write instead.

use std::collections::HashSet;

use bus_schema::envelope::PLAIN_AGENT;

use super::{AgentConfig, ClusterConfig, SourceConfig};

/// The part of a command's subject that stands for the target itself: `far.v1.<target>.cmd.target.…`.
const TARGET: &str = "target";

/// Checks agents that shall run together, each of them and one against the other. Errors: in words, what to write.
pub fn check_together(agents: &[AgentConfig]) -> Result<(), String> {
    let mut names = HashSet::new();
    for agent in agents {
        agent.check()?;
        let AgentConfig { site, name, .. } = agent;
        if !names.insert((site, name)) {
            return Err(format!(
                "two agents of the site {site} are called {name}; give one of them another name, or put the clusters of both under one"
            ));
        }
    }
    Ok(())
}

impl AgentConfig {
    /// Checks the agent by itself. Errors: in words, what to write.
    pub(crate) fn check(&self) -> Result<(), String> {
        let name = &self.name;
        if self.clusters.is_empty() {
            return Err(format!("the agent {name} has no clusters; name at least one"));
        }
        if name.as_str() == PLAIN_AGENT {
            return Err(format!(
                "the name {PLAIN_AGENT} is kept for publishers without an agent; give the agent another"
            ));
        }
        let mut names = HashSet::new();
        for cluster in &self.clusters {
            if !names.insert(&cluster.name) {
                return Err(format!(
                    "the cluster {} of the agent {name} is there twice; merge the two",
                    cluster.name
                ));
            }
            cluster
                .check()
                .map_err(|wrong| format!("the cluster {} of the agent {name} {wrong}", cluster.name))?;
        }
        Ok(())
    }
}

impl ClusterConfig {
    fn check(&self) -> Result<(), String> {
        if self.name.as_str() == TARGET {
            return Err(
                "has a name that stands for the target itself in subjects; give it another".to_owned()
            );
        }
        let none = |key: &str, what: &str| {
            Err(format!("has {key} = 0 in its source: {what}; write at least 1, or leave it out for 60"))
        };
        match &self.source {
            SourceConfig::Exec { command, .. } if command.is_empty() => {
                Err("has an exec source without a command; write command = [\"program\", \"argument\"]"
                    .to_owned())
            }
            SourceConfig::Directory { every_s: 0, .. } | SourceConfig::Exec { every_s: 0, .. } => {
                none("every_s", "it would be read without a pause")
            }
            SourceConfig::Exec { timeout_s: 0, .. } => none("timeout_s", "no command ends in no time"),
            SourceConfig::Directory { .. } | SourceConfig::Exec { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn agent(cluster: &str, source: Value) -> AgentConfig {
        let clusters = json!([{ "name": cluster, "source": source }]);
        serde_json::from_value(json!({ "name": "inv", "ledger": "l", "clusters": clusters })).unwrap()
    }

    fn directory(every_s: u32) -> Value {
        json!({ "adapter": "directory", "path": "x", "every_s": every_s })
    }

    fn exec(command: &[&str], every_s: u32, timeout_s: u32) -> Value {
        json!({ "adapter": "exec", "command": command, "every_s": every_s, "timeout_s": timeout_s })
    }

    #[test]
    fn what_would_come_up_and_fail_later_is_told_with_what_to_write() {
        assert_eq!(agent("dc1", exec(&["x"], 1, 1)).check(), Ok(()));
        for (cluster, source, words) in [
            ("dc1", directory(0), "every_s = 0"),
            ("dc1", exec(&["x"], 0, 1), "every_s = 0"),
            ("dc1", exec(&["x"], 1, 0), "timeout_s = 0"),
            ("dc1", exec(&[], 1, 1), "write command"),
            ("target", directory(1), "another"),
        ] {
            let told = agent(cluster, source).check().unwrap_err();
            assert!(told.contains(words) && told.contains(cluster) && told.contains("agent inv"), "{told}");
        }
    }

    #[test]
    fn two_agents_of_one_site_have_two_names() {
        let (one, mut other) = (agent("dc1", directory(1)), agent("dc2", directory(1)));
        let told = check_together(&[one.clone(), other.clone()]).unwrap_err();
        assert!(told.contains("two agents of the site local are called inv"), "{told}");
        other.site = "edge".parse().unwrap();
        assert_eq!(check_together(&[one, other]), Ok(()));
    }
}
