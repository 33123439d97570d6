//! Events that change no row: the life of agents, sync answers, keys, volumes, images.

use bus_schema::{
    Epoch, Timestamp,
    chain::ChainPoint,
    event::{
        agent::{AgentEvent, EpochClosed, Heartbeat, Started},
        image::ImageEvent,
        key::KeyEvent,
        volume::{Extent, WriteFailed},
    },
};
use redb::ReadableTable;

use super::{Commit, facts, owners::Owners, parked::Original};
use crate::{
    batch::Effect,
    owner::{AgentState, HeartbeatSeen, Owner, Proof},
    records::{AccessKey, ImageEntry, KeyOrigin, VolumeState},
    tables::{self, Db, read_json, write_json},
};

/// Where an event stands, for what it leaves behind.
struct Origin {
    owner: String,
    place: String,
    stored_at: Timestamp,
}

impl Commit<'_, '_> {
    /// Takes in an event of a run that counts.
    pub(super) fn event(
        &mut self,
        run: usize,
        chain_seq: u64,
        seq: u64,
        stored_at: i64,
        effect: Effect,
    ) -> Db<()> {
        let stored_at = Timestamp::from_unix_ms(stored_at);
        match effect {
            Effect::Opened(opened) => self.open_window(run, opened, seq, stored_at),
            Effect::Closed(closed) => self.close_window(run, chain_seq, closed, seq, stored_at),
            Effect::Agent(event) => self.agent(run, event, seq, stored_at),
            Effect::Key(event) => self.source_key(run, event, stored_at),
            Effect::Volume(event) => self.volume(run, event, seq, stored_at).map(|_| ()),
            Effect::Image(event) => self.image(run, event, seq, stored_at),
            Effect::Run | Effect::Fact(_) | Effect::DeadLetter(_) | Effect::StillDead(_) => Ok(()),
        }
    }

    /// Takes in a copy that fills a hole or was parked: only what cannot undo anything newer.
    pub(super) fn late_event(
        &mut self,
        run: usize,
        chain_seq: u64,
        seq: u64,
        stored_at: i64,
        effect: Effect,
    ) -> Db<()> {
        let (seq, stored_at) = match self.outcomes[run].as_ref().and_then(|outcome| outcome.origin) {
            Some(origin) if !origin.is_late => return self.redriven_event(run, origin, effect),
            Some(origin) => (origin.seq, origin.stored_at),
            None => (seq, stored_at),
        };
        match effect {
            // More failed extents are more to copy, which never does harm.
            Effect::Volume(event) => {
                if !self.volume(run, event, seq, Timestamp::from_unix_ms(stored_at))? {
                    return Ok(());
                }
            }
            Effect::Image(event) if !self.knows_image(run, &event)? => {
                self.image(run, event, seq, Timestamp::from_unix_ms(stored_at))?;
            }
            Effect::Key(event) if self.key_changed(run, &event)?.is_none() => {
                self.event(run, chain_seq, seq, stored_at, Effect::Key(event))?;
            }
            _ => return Ok(()),
        }
        self.note_changed(run)
    }

    /// Takes in a copy of what was parked, at its place, unless something newer was said.
    fn redriven_event(&mut self, run: usize, origin: Original, effect: Effect) -> Db<()> {
        let at = Timestamp::from_unix_ms(origin.stored_at);
        match effect {
            Effect::Volume(event) => {
                if !self.volume(run, event, origin.seq, at)? {
                    return Ok(());
                }
            }
            Effect::Image(event)
                if self.image_changed(run, &event)?.is_none_or(|last| last < (at, origin.seq)) =>
            {
                self.image(run, event, origin.seq, at)?;
            }
            Effect::Key(event) => {
                let last = self.key_changed(run, &event)?;
                // Of one moment, what ends a key counts: the safe one of two.
                let is_end = matches!(event, KeyEvent::Withdrawn(_));
                if last.is_some_and(|last| last > at || (last == at && !is_end)) {
                    return Ok(());
                }
                self.source_key(run, event, at)?;
            }
            // Of agents and their answers only what they say now is of use.
            _ => return Ok(()),
        }
        self.note_changed(run)
    }

    /// Where the last event stands that an image is known by.
    fn image_changed(&mut self, run: usize, event: &ImageEvent) -> Db<Option<(Timestamp, u64)>> {
        let (pool, _) = self.pool_of(run)?;
        let known = pool.side.images.get(event.entity().as_str())?;
        let known: Option<ImageEntry> =
            known.map(|known| read_json("an image", known.value())).transpose()?;
        let seq = |place: &str| place.rsplit_once(':').and_then(|(_, seq)| seq.parse().ok()).unwrap_or(0);
        Ok(known.map(|known| (known.stored_at, seq(&known.place))))
    }

    /// When the owner said something of a key last.
    fn key_changed(&mut self, run: usize, event: &KeyEvent) -> Db<Option<Timestamp>> {
        let source = self.owners[self.runs[run].owner].source.to_string();
        let (pool, _) = self.pool_of(run)?;
        let pool = pool.name.parse().map_err(|_| tables::damaged("a pool's name"))?;
        facts::key_changed(self.txn, &event.entity(), &KeyOrigin::Source { pool, source })
    }

    /// Whether anything was said of an image: nobody remembers in which order.
    fn knows_image(&mut self, run: usize, event: &ImageEvent) -> Db<bool> {
        let (pool, _) = self.pool_of(run)?;
        Ok(pool.side.images.get(event.entity().as_str())?.is_some())
    }

    fn agent(&mut self, run: usize, event: AgentEvent, seq: u64, stored_at: Timestamp) -> Db<()> {
        let (pool, number) = self.pool_of(run)?;
        let owners = &mut pool.side.owners;
        match &event {
            AgentEvent::Heartbeat(beat) => {
                owners.recall(number, beat.at.epoch)?;
                self.note_missing(run, beat, seq, stored_at)?;
            }
            AgentEvent::EpochClosed(closed) => retire_closed(owners, number, closed.epoch)?,
            AgentEvent::Started(_) | AgentEvent::Stopped(_) => {}
        }
        let (pool, number) = self.pool_of(run)?;
        let owner = &mut pool.side.owners.get(number)?.owner;
        match event {
            AgentEvent::Started(started) => start(owner, started, stored_at),
            AgentEvent::Heartbeat(beat) => hear(owner, beat, stored_at),
            AgentEvent::EpochClosed(closed) => close_epoch(owner, &closed, stored_at),
            AgentEvent::Stopped(_) => {
                if let Some(agent) = &mut owner.agent {
                    agent.stopped_at = Some(stored_at);
                }
            }
        }
        Ok(())
    }

    fn source_key(&mut self, run: usize, event: KeyEvent, stored_at: Timestamp) -> Db<()> {
        let source = self.owners[self.runs[run].owner].source.to_string();
        let (pool, _) = self.pool_of(run)?;
        let pool = pool.name.parse().map_err(|_| tables::damaged("a pool's name"))?;
        let origin = KeyOrigin::Source { pool, source };
        match event {
            KeyEvent::Announced(key) => {
                let (tenant, salt, hash, not_after) = (key.tenant, key.salt, key.hash, key.not_after);
                let (key_id, revoked_at) = (key.key_id, None);
                let key =
                    AccessKey { key_id, origin, tenant, salt, hash, not_after, since: stored_at, revoked_at };
                facts::put_key(self.txn, key)
            }
            KeyEvent::Withdrawn(key) => facts::end_key(self.txn, &key.key_id, &origin, stored_at),
        }
    }

    fn origin(&self, run: usize, seq: u64, stored_at: Timestamp) -> Origin {
        let owner = self.owners[self.runs[run].owner].source.to_string();
        Origin { owner, place: self.place(seq), stored_at }
    }

    /// Answers whether the event was of use: one of an older generation is not.
    fn volume(&mut self, run: usize, event: WriteFailed, seq: u64, stored_at: Timestamp) -> Db<bool> {
        let origin = self.origin(run, seq, stored_at);
        let (pool, _) = self.pool_of(run)?;
        let table = &mut pool.side.volumes;
        let known: Option<VolumeState> = table
            .get(event.volume.as_str())?
            .map(|known| read_json("a volume", known.value()))
            .transpose()?;
        let Some(state) = fail_extents(known, event, origin) else { return Ok(false) };
        table.insert(state.volume.as_str(), write_json(&state)?.as_slice())?;
        Ok(true)
    }

    fn image(&mut self, run: usize, event: ImageEvent, seq: u64, stored_at: Timestamp) -> Db<()> {
        let Origin { owner, place, stored_at } = self.origin(run, seq, stored_at);
        let (pool, _) = self.pool_of(run)?;
        let table = &mut pool.side.images;
        let reference = event.entity();
        let entry = match event {
            ImageEvent::Pushed(pushed) => {
                ImageEntry { reference, owner, pushed: Some(pushed), place, stored_at, deleted_at: None }
            }
            ImageEvent::Deleted(_) => {
                let known: Option<ImageEntry> = table
                    .get(reference.as_str())?
                    .map(|known| read_json("an image", known.value()))
                    .transpose()?;
                let pushed = known.and_then(|known| known.pushed);
                ImageEntry { reference, owner, pushed, place, stored_at, deleted_at: Some(stored_at) }
            }
        };
        table.insert(entry.reference.as_str(), write_json(&entry)?.as_slice())?;
        Ok(())
    }
}

fn start(owner: &mut Owner, started: Started, stored_at: Timestamp) {
    let Started { agent: name, stem, version, heartbeat_ms } = started;
    owner.agent =
        Some(AgentState { name, stem, version, heartbeat_ms, started_at: stored_at, stopped_at: None });
}

fn hear(owner: &mut Owner, beat: Heartbeat, stored_at: Timestamp) {
    let Heartbeat { agent: _, at, digest, sent_at, outbox_events, trouble, hash: _, checkpoint } = beat;
    let equal = digest.filter(|_| owner.at == Some(at)).map(|digest| digest == owner.digest);
    if let Some(equal) = equal {
        owner.proof = Some(Proof { at, equal, stored_at });
    }
    let known = owner.last_heartbeat.take().and_then(|before| before.trouble_since);
    let trouble_since = trouble.is_some().then(|| known.unwrap_or(stored_at));
    owner.last_heartbeat = Some(HeartbeatSeen {
        at,
        digest,
        sent_at,
        stored_at,
        outbox_events,
        trouble,
        trouble_since,
        equal,
        checkpoint,
    });
}

/// The epoch never comes back, also when nothing of it ever came.
fn retire_closed(owners: &mut Owners<'_>, number: u32, epoch: Epoch) -> Db<()> {
    let is_current = owners.get(number)?.owner.at.is_some_and(|at| at.epoch == epoch);
    if is_current || owners.last_of_retired(number, epoch)?.is_some() {
        return Ok(());
    }
    owners.retire(number, ChainPoint { epoch, seq: 0 })
}

/// What was dropped is missing until the full sync that follows.
fn close_epoch(owner: &mut Owner, closed: &EpochClosed, stored_at: Timestamp) {
    if closed.dropped > 0 {
        let at = owner.at.unwrap_or(ChainPoint { epoch: closed.epoch, seq: 0 });
        owner.proof = Some(Proof { at, equal: false, stored_at });
    }
}

/// A volume's failed extents after more writes failed; none = the event speaks of an older generation.
fn fail_extents(known: Option<VolumeState>, event: WriteFailed, origin: Origin) -> Option<VolumeState> {
    let WriteFailed { volume, generation, extents, reason, first_failed_at, last_failed_at } = event;
    let known = known.filter(|known| known.generation >= generation);
    let Origin { owner, place, stored_at } = origin;
    let mut state = match known {
        Some(known) if known.generation > generation => return None,
        Some(known) => known,
        None => VolumeState {
            volume,
            owner: String::new(),
            generation,
            extents: Vec::new(),
            reason: String::new(),
            first_failed_at,
            last_failed_at,
            place: String::new(),
            stored_at,
        },
    };
    state.extents.extend(extents);
    state.extents = union(std::mem::take(&mut state.extents));
    state.first_failed_at = state.first_failed_at.min(first_failed_at);
    state.last_failed_at = state.last_failed_at.max(last_failed_at);
    // A copy of what was parked may be older than what was told last.
    if stored_at >= state.stored_at {
        (state.owner, state.place, state.reason, state.stored_at) = (owner, place, reason, stored_at);
    }
    Some(state)
}

/// The same bytes as sorted extents that neither overlap nor touch; empty ones vanish.
fn union(mut extents: Vec<Extent>) -> Vec<Extent> {
    extents.retain(|extent| extent.length > 0);
    extents.sort_unstable();
    let mut merged: Vec<Extent> = Vec::with_capacity(extents.len());
    for next in extents {
        match merged.last_mut() {
            Some(last) if next.offset <= last.offset.saturating_add(last.length) => {
                let end =
                    next.offset.saturating_add(next.length).max(last.offset.saturating_add(last.length));
                last.length = end - last.offset;
            }
            _ => merged.push(next),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_that_overlap_or_touch_become_one() {
        let extents = |list: &[(u64, u64)]| {
            list.iter()
                .map(|(offset, length)| Extent { offset: *offset, length: *length })
                .collect::<Vec<_>>()
        };
        let merged = union(extents(&[(100, 10), (0, 4), (4, 4), (105, 20), (50, 0), (u64::MAX - 1, 9)]));
        assert_eq!(merged, extents(&[(0, 8), (100, 25), (u64::MAX - 1, 9)]));
    }
}
