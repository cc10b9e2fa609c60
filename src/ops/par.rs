//! How many threads an operation may use.

/// A degree of parallelism, given by the caller; never read from the machine here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Par(usize);

impl Par {
    /// On the caller's thread only.
    pub const SERIAL: Par = Par(1);

    /// Up to `n` threads of rayon's global pool; 0 counts as 1.
    pub fn threads(n: usize) -> Par {
        Par(n.max(1))
    }

    pub fn get(self) -> usize {
        self.0
    }

    pub fn is_serial(self) -> bool {
        self.0 == 1
    }

    /// The two shares for the halves of a divided work.
    pub fn halves(self) -> (Par, Par) {
        (Par::threads(self.0.div_ceil(2)), Par::threads(self.0 / 2))
    }
}
