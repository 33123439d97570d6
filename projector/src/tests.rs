//! Given these events in a log, when they are committed, then the pool has this.

mod chain;
mod checkpoints;
mod damage;
mod edges;
mod late;
mod oracle;
mod originals;
mod property;
mod records;
mod redrive;
mod snapshot;
mod support;
mod window;
