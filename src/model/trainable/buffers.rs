//! Activations that models over one base use in turn.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::cpu::Host;
use super::workspace::Workspace;

/// Workspaces between two batches, and who uses them.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Arc<Lendable>);

/// What [`Buffers`] share.
#[derive(Debug, Default)]
pub struct Lendable {
    idle: Mutex<Vec<Workspace<Host>>>,
    joined: AtomicBool,
}

impl From<Arc<Lendable>> for Buffers {
    fn from(lendable: Arc<Lendable>) -> Self {
        Self(lendable)
    }
}

impl Buffers {
    pub fn downgrade(&self) -> Weak<Lendable> {
        Arc::downgrade(&self.0)
    }

    /// A second user came.
    pub fn join(&self) {
        self.0.joined.store(true, Ordering::Relaxed);
    }

    /// Whether they ever had a second user.
    pub fn joined(&self) -> bool {
        self.0.joined.load(Ordering::Relaxed)
    }

    /// Puts what is idle into `users`; those beyond it make buffers of their own.
    pub(super) fn lend<'a>(&self, users: impl Iterator<Item = &'a mut Workspace<Host>>) {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        for (user, workspace) in users.zip(std::iter::from_fn(|| idle.pop())) {
            *user = workspace;
        }
    }

    pub(super) fn take_back<'a>(&self, users: impl Iterator<Item = &'a mut Workspace<Host>>) {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.extend(users.map(std::mem::take));
    }

    /// Workspaces that nobody uses now.
    #[cfg(test)]
    pub(super) fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Workspace<Host>>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
