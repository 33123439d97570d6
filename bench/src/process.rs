//! What the kernel says of a process: memory and processor time. Linux only, as the figures of the report are.

use std::{fs, path::Path};

use crate::Outcome;

/// Ticks of the kernel's clock in a second: 100 for every process on every Linux.
const TICKS_PER_S: f64 = 100.0;

/// A line of the kernel's account of a process (`/proc/PID`), in bytes: `VmRSS` is resident now, `VmHWM` was at most.
pub(crate) fn memory(process: &Path, line: &str) -> Outcome<u64> {
    let status = fs::read_to_string(process.join("status"))?;
    let value = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    let kib: u64 = value.ok_or("the kernel tells no memory")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1_024)
}

/// Lets the peak (`VmHWM`) begin anew with what is resident now.
pub(crate) fn forget_peak(process: &Path) -> Outcome<()> {
    Ok(fs::write(process.join("clear_refs"), "5")?)
}

/// Processor time that this process has used, in seconds.
pub(crate) fn cpu_seconds() -> Outcome<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // Behind the name, which may hold anything: the state, and eleven numbers before these two.
    let behind = stat.rsplit(')').next().unwrap_or_default();
    let ticks = behind.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(ticks as f64 / TICKS_PER_S)
}
