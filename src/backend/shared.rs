//! One backend that several pipelines ask, or several stages of one.

use std::cell::RefCell;
use std::rc::Rc;

use super::{Answer, Ask, Backend, BackendError, Listener};

/// A backend whose copies are the same backend.
#[derive(Clone)]
pub struct Shared(Rc<RefCell<Box<dyn Backend>>>);

impl Shared {
    pub fn new(backend: Box<dyn Backend>) -> Self {
        Self(Rc::new(RefCell::new(backend)))
    }
}

impl Backend for Shared {
    fn stream(&mut self, asks: &[Ask], listener: &mut Listener<'_>) -> Vec<Result<Answer, BackendError>> {
        self.0.borrow_mut().stream(asks, listener)
    }
    fn answer(&mut self, asks: &[Ask]) -> Vec<Result<Answer, BackendError>> {
        self.0.borrow_mut().answer(asks)
    }
    fn width(&self) -> usize {
        self.0.borrow().width()
    }
    fn variant(&self) -> &'static str {
        self.0.borrow().variant()
    }
    fn told(&self) -> Option<String> {
        self.0.borrow().told()
    }
    fn set_fresh(&mut self, fresh: bool) {
        self.0.borrow_mut().set_fresh(fresh);
    }
}
