//! Progress on stderr: a bar on a terminal, a plain line now and then otherwise.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::Output;

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Bytes done of all.
pub struct Bytes {
    what: &'static str,
    bar: Option<ProgressBar>,
    out: Output,
    start: Instant,
    said: Instant,
}

impl Bytes {
    pub fn new(out: &Output, what: &'static str) -> Self {
        let now = Instant::now();
        let bar = out.stderr_is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            // A template of ours that does not parse would only cost the bar its looks.
            if let Ok(style) = ProgressStyle::with_template(
                "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} left {eta}",
            ) {
                bar.set_style(style);
            }
            bar.set_message(what);
            bar
        });
        Self { what, bar, out: *out, start: now, said: now }
    }

    pub fn show(&mut self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        } else if self.said.elapsed() >= LINE_EVERY {
            self.said = Instant::now();
            let share = done as f64 / total.max(1) as f64;
            let left = self.start.elapsed().as_secs_f64() * (1.0 - share) / share.max(1e-9);
            self.out.say(&format!("{} {:.0}%, {left:.0} s left", self.what, share * 100.0));
        }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
