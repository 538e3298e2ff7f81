//! The writer's record of the gate: who is known to be inside, what they may see, and what is kept for them.

use super::tree::pool::List;
use crate::handler::gate::{CLAIMS, Claim, FIRST_TICK, Gate, STRIPES};

/// A count that nobody is known to be in.
const IDLE: u64 = u64::MAX;

/// What the last look at the gate found.
///
/// Things that are true of nobody inside are not written down: a look that finds nobody, as they mostly do, reads the
/// gate and little else.
pub(crate) struct Quiet {
    /// The tick of the last look.
    last: u64,
    /// What each claim held.
    claims: [[Claim; CLAIMS]; STRIPES],
    /// For a claim whose reader does not say what it sees: the last tick that it sees no garbage of.
    blind_since: [[u64; CLAIMS]; STRIPES],
    /// The claims whose readers did say it, of which there are `announced`.
    readers: [(u8, u8); STRIPES * CLAIMS],
    announced: usize,
    /// Garbage that a claim's reader sees, and nothing else holds up.
    kept: [[List; CLAIMS]; STRIPES],
    /// For a count with somebody in: the last tick that nobody in it sees the garbage of. Otherwise [`IDLE`].
    counted_since: [[u64; 2]; STRIPES],
    phase: usize,
}

impl Quiet {
    pub(crate) const fn new() -> Self {
        Self {
            last: FIRST_TICK,
            claims: [[Claim::FREE; CLAIMS]; STRIPES],
            blind_since: [[0; CLAIMS]; STRIPES],
            readers: [(0, 0); STRIPES * CLAIMS],
            announced: 0,
            kept: [const { [const { List::new() }; CLAIMS] }; STRIPES],
            counted_since: [[IDLE; 2]; STRIPES],
            phase: 0,
        }
    }

    /// Looks at everything once, after the publication of tick `now`. `oldest` is the tick of the oldest garbage that is
    /// kept for nobody in particular. Returns the last tick whose garbage nobody inside sees, except for those who said
    /// what they see ([`reader_of`](Self::reader_of)). What was kept for readers that are gone is let `loose`.
    ///
    /// Constant time, and in proportion to the readers inside; never waits.
    pub(crate) fn scan(&mut self, gate: &Gate, now: u64, oldest: u64, loose: &mut List) -> u64 {
        Gate::begin_scan();
        self.announced = 0;
        let mut blind = now;
        let mut counted = [now; 2];
        for stripe in 0..STRIPES {
            for claim in 0..CLAIMS {
                let found = gate.claim(stripe, claim);
                let known = &mut self.claims[stripe][claim];
                if found.is_free() && known.is_free() {
                    continue;
                }
                if found != *known {
                    // Whoever was here is gone, or announced something else: what was kept is not what newcomers see.
                    loose.append(&mut self.kept[stripe][claim]);
                    // If this one is blind, it came after the last look.
                    self.blind_since[stripe][claim] = self.last;
                    *known = found;
                }
                if found.tick().is_some() {
                    self.readers[self.announced] = (stripe as u8, claim as u8);
                    self.announced += 1;
                } else if !found.is_free() {
                    blind = blind.min(self.blind_since[stripe][claim]);
                }
            }
            for (phase, since) in self.counted_since[stripe].iter_mut().enumerate() {
                if gate.is_idle(stripe, phase) {
                    *since = IDLE;
                } else {
                    *since = if *since == IDLE { self.last } else { *since };
                    counted[phase] = counted[phase].min(*since);
                }
            }
        }
        self.last = now;
        // Newcomers go where nobody is waited for, and only if somebody is where they go now: a flip without need
        // would make the writer wait for both counts in turn.
        let idle = 1 - self.phase;
        if counted[idle] >= oldest && counted[self.phase] < oldest {
            self.phase = idle;
            gate.set_phase(idle);
        }
        blind.min(counted[0]).min(counted[1])
    }

    /// The list of a reader that, when last looked at, said that it sees what was born at `birth` and died at `death`.
    pub(crate) fn reader_of(&mut self, birth: u64, death: u64) -> Option<&mut List> {
        let readers = self.readers.get(..self.announced)?.iter();
        let (stripe, claim) =
            readers.map(|(stripe, claim)| (usize::from(*stripe), usize::from(*claim))).find(|(stripe, claim)| {
                // Its tree is that of the tick, or the one before.
                self.claims[*stripe][*claim].tick().is_some_and(|tick| birth <= tick && tick <= death)
            })?;
        Some(&mut self.kept[stripe][claim])
    }

    /// Lets go of what is kept: there is no reader any more.
    pub(crate) fn end(&mut self, loose: &mut List) {
        self.announced = 0;
        for (kept, known) in self.kept.iter_mut().flatten().zip(self.claims.iter_mut().flatten()) {
            loose.append(kept);
            *known = Claim::FREE;
        }
    }
}
