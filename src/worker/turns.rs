//! Who computes: of several runs in one process one at a time, in the order of asking, with all threads.
//!
//! A run hands its turn on at every poll for requests, which stands before each micro-batch and each batch of an evaluation.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A ticket lock (Mellor-Crummey & Scott 1991): nobody is overtaken, so the runs advance by one micro-batch each.
#[derive(Debug, Default)]
pub struct Turns {
    tickets: Mutex<Tickets>,
    called: Condvar,
}

#[derive(Debug, Default)]
struct Tickets {
    /// The ticket that the next to ask gets, and the one whose turn it is.
    next: u64,
    served: u64,
}

/// The right to compute, until dropped.
#[derive(Debug)]
pub struct Turn {
    turns: Arc<Turns>,
}

impl Turns {
    fn tickets(&self) -> MutexGuard<'_, Tickets> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait for a turn.
    pub fn take(self: &Arc<Self>) -> Turn {
        let mut tickets = self.tickets();
        let mine = tickets.next;
        tickets.next += 1;
        while tickets.served != mine {
            tickets = self.called.wait(tickets).unwrap_or_else(PoisonError::into_inner);
        }
        Turn { turns: self.clone() }
    }

    /// How many stand in line, who computes among them.
    #[cfg(test)]
    pub fn in_line(&self) -> u64 {
        let tickets = self.tickets();
        tickets.next - tickets.served
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.tickets().served += 1;
        self.turns.called.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_computes_at_a_time_and_nobody_is_overtaken() {
        let turns = Arc::new(Turns::default());
        let log = Mutex::new(Vec::new());
        let gate = turns.take();
        std::thread::scope(|scope| {
            let (turns, log) = (&turns, &log);
            for name in 0..3 {
                scope.spawn(move || {
                    for _ in 0..50 {
                        let turn = turns.take();
                        log.lock().unwrap().push(name);
                        // Hands over only when all others wait, so that the order is that of the tickets.
                        while log.lock().unwrap().len() <= 140 && turns.in_line() < 3 {
                            std::thread::yield_now();
                        }
                        drop(turn);
                    }
                });
            }
            while turns.in_line() < 4 {
                std::thread::yield_now();
            }
            drop(gate);
        });
        let log = log.into_inner().unwrap();
        assert_eq!(log.len(), 150);
        for window in log[..140].windows(3) {
            let mut names = window.to_vec();
            names.sort_unstable();
            assert_eq!(names, [0, 1, 2], "{log:?}");
        }
    }

    #[test]
    fn a_turn_ends_with_a_panic_too() {
        let turns = Arc::new(Turns::default());
        let panicked = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let _turn = turns.take();
                    panic!("no more");
                })
                .join()
                .is_err()
        });
        assert!(panicked);
        drop(turns.take());
        assert_eq!(turns.in_line(), 0);
    }
}
