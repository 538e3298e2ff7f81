//! The writer's record of the gate: since when each side of each stripe is known to have let everybody go.

use crate::handler::gate::{Gate, STRIPES};

/// For each side of each stripe, the last tick that nobody inside it can see the garbage of.
pub(crate) struct Quiet {
    since: [[u64; 2]; STRIPES],
    phase: usize,
}

impl Quiet {
    pub(crate) const fn new() -> Self {
        Self { since: [[0; 2]; STRIPES], phase: 0 }
    }

    /// Looks at every side once, after the publication of tick `now`. `oldest` is the tick of the oldest garbage.
    ///
    /// Constant time; never waits.
    pub(crate) fn scan(&mut self, gate: &Gate, now: u64, oldest: u64) {
        for (stripe, since) in self.since.iter_mut().enumerate() {
            for (phase, since) in since.iter_mut().enumerate() {
                if gate.is_idle(stripe, phase) {
                    *since = now;
                }
            }
        }
        // Newcomers go where nobody is waited for, and only if somebody is where they go now: a flip without need
        // would make the writer wait for both sides in turn.
        let idle = 1 - self.phase;
        if self.through(idle) >= oldest && self.through(self.phase) < oldest {
            self.phase = idle;
            gate.set_phase(idle);
        }
    }

    /// What was retired at this tick or before is seen by nobody inside the gate.
    pub(crate) fn frontier(&self) -> u64 {
        self.through(0).min(self.through(1))
    }

    fn through(&self, phase: usize) -> u64 {
        self.since.iter().map(|since| since[phase]).min().unwrap_or(0)
    }
}
