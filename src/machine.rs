//! What this machine has left, and what this process took of it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that others were promised and have not taken yet.
static PROMISED: AtomicU64 = AtomicU64::new(0);

/// Leave so many bytes to others: [`available_memory`] does not count them from now on.
pub fn leave_to_others(bytes: u64) {
    PROMISED.store(bytes, Ordering::Relaxed);
}

/// Bytes that processes may still take: of the system, and of the control group where one sets a limit.
pub fn available_memory() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    // What the group's processes hold counts, not the files that it read: the system gives cached pages back when asked to.
    let of_group =
        system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory.saturating_sub(limits.rss));
    system.available_memory().min(of_group).saturating_sub(PROMISED.load(Ordering::Relaxed))
}

/// Bytes that this process holds now; none where the system does not tell.
pub fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// The most that this process ever held, in bytes; none where the system does not tell.
pub fn peak_resident() -> Option<u64> {
    status("VmHWM:")
}

/// Bytes that another process holds now.
pub fn resident_of(pid: u32) -> Option<u64> {
    status_of(&pid.to_string(), "VmRSS:")
}

fn status(field: &str) -> Option<u64> {
    status_of("self", field)
}

/// A figure of `/proc/PROCESS/status` in bytes, such as `VmRSS:`.
pub fn status_of(process: &str, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kib)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_holds_at_most_its_peak() {
        let held = vec![1u8; 8 << 20];
        let (now, peak) = (resident().unwrap(), peak_resident().unwrap());
        assert!(now >= held.len() as u64 && now <= peak + (1 << 20), "{now} {peak}");
        assert!(available_memory() > 0);
    }
}
