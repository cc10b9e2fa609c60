//! Weights that are shared, or borrowed from who trains them.

use std::ops::Deref;
use std::sync::Arc;

/// Something shared or borrowed.
#[derive(Debug)]
pub enum Held<'a, T> {
    Shared(Arc<T>),
    Borrowed(&'a T),
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Shared(shared) => shared,
            Self::Borrowed(borrowed) => borrowed,
        }
    }
}

impl<T> From<Arc<T>> for Held<'_, T> {
    fn from(shared: Arc<T>) -> Self {
        Self::Shared(shared)
    }
}

impl<'a, T> From<&'a T> for Held<'a, T> {
    fn from(borrowed: &'a T) -> Self {
        Self::Borrowed(borrowed)
    }
}
