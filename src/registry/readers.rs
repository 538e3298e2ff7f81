//! The writer's record of the gate: who is known to be inside, what they may see, and what is kept for them.

use super::tree::List;
use crate::handler::gate::{CLAIMS, Claim, Gate, STRIPES};
use crate::sync::FIRST_TICK;

/// A count that nobody is known to be in.
const IDLE: u64 = u64::MAX;

/// The readers inside the gate, as of the last look at it, and the garbage that each of them keeps.
///
/// Things that are true of nobody inside are not written down: a look that finds nobody, as they mostly do, reads the
/// gate and little else.
pub(crate) struct Readers {
    /// The tick of the last look.
    last: u64,
    /// What each claim held.
    claims: [[Claim; CLAIMS]; STRIPES],
    /// For a claim whose reader does not say what it sees: the last tick that it sees no garbage of.
    unannounced_since: [[u64; CLAIMS]; STRIPES],
    /// The claims whose readers did say it, of which there are `announcements`.
    announced: [(u8, u8); STRIPES * CLAIMS],
    announcements: usize,
    /// Garbage that a claim's reader sees, and nothing else holds up.
    kept: [[List; CLAIMS]; STRIPES],
    /// A bit for each stripe that is not, in all of this, as if nobody were there.
    busy: u64,
    /// For a count with somebody in: the last tick that nobody in it sees the garbage of. Otherwise [`IDLE`].
    counted_since: [[u64; 2]; STRIPES],
    phase: usize,
}

/// What the writer learns from a look at the gate.
pub(crate) struct Seen {
    /// The last tick whose garbage no handler sees, except for those that said what they see
    /// ([`Readers::one_who_sees`]).
    pub(crate) frontier: u64,
    /// Whether there are guards, which see what they like.
    pub(crate) guards: bool,
}

impl Readers {
    pub(crate) const fn new() -> Self {
        Self {
            last: FIRST_TICK,
            claims: [[Claim::FREE; CLAIMS]; STRIPES],
            unannounced_since: [[0; CLAIMS]; STRIPES],
            announced: [(0, 0); STRIPES * CLAIMS],
            announcements: 0,
            kept: [const { [const { List::new() }; CLAIMS] }; STRIPES],
            busy: 0,
            counted_since: [[IDLE; 2]; STRIPES],
            phase: 0,
        }
    }

    /// Looks at everything once, after the publication of tick `now`. `oldest` is the tick of the oldest garbage that is
    /// kept for nobody in particular. What was kept for readers that are gone is let `loose`.
    ///
    /// Constant time, and in proportion to the readers inside; never waits.
    pub(crate) fn scan(&mut self, gate: &Gate, now: u64, oldest: u64, loose: &mut List) -> Seen {
        Gate::begin_scan();
        self.announcements = 0;
        let mut unannounced = now;
        let mut counted = [now; 2];
        let mut guards = false;
        let mut stripes = gate.occupied() | self.busy;
        while stripes != 0 {
            let stripe = stripes.trailing_zeros() as usize;
            let bit = 1 << stripe;
            stripes &= !bit;
            let found = gate.occupants(stripe);
            self.busy = if found.is_nobody() { self.busy & !bit } else { self.busy | bit };
            guards |= found.guards != 0;
            for (claim, found) in found.claims.into_iter().enumerate() {
                let known = &mut self.claims[stripe][claim];
                if found != *known {
                    // The reader that was here has gone, or announced something else: newcomers do not see what was kept for it.
                    loose.append(&mut self.kept[stripe][claim]);
                    // If this one announces nothing, it came after the last look.
                    self.unannounced_since[stripe][claim] = self.last;
                    *known = found;
                }
                if found.tick().is_some() {
                    self.announced[self.announcements] = (stripe as u8, claim as u8);
                    self.announcements += 1;
                } else if !found.is_free() {
                    unannounced = unannounced.min(self.unannounced_since[stripe][claim]);
                }
            }
            for (phase, since) in self.counted_since[stripe].iter_mut().enumerate() {
                if found.counts[phase] == 0 {
                    *since = IDLE;
                } else {
                    *since = if *since == IDLE { self.last } else { *since };
                    counted[phase] = counted[phase].min(*since);
                }
            }
        }
        self.last = now;
        // Newcomers go where nobody is waited for. If nobody is waited for where they go now either, that would do no
        // harm, but each write would have the line of the gate once more that all lookups read.
        let idle = 1 - self.phase;
        if counted[idle] >= oldest && counted[self.phase] < oldest {
            self.phase = idle;
            gate.set_phase(idle);
        }
        Seen { frontier: unannounced.min(counted[0]).min(counted[1]), guards }
    }

    /// The list of a reader that, when last looked at, said that it sees what was born at `birth` and died at `death`.
    pub(crate) fn one_who_sees(&mut self, birth: u64, death: u64) -> Option<&mut List> {
        let readers = self.announced.get(..self.announcements)?.iter();
        let (stripe, claim) =
            readers.map(|(stripe, claim)| (usize::from(*stripe), usize::from(*claim))).find(|(stripe, claim)| {
                // Its tree is that of the tick, or the one before.
                self.claims[*stripe][*claim].tick().is_some_and(|tick| birth <= tick && tick <= death)
            })?;
        Some(&mut self.kept[stripe][claim])
    }

    /// All that is kept for readers.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &List> {
        self.kept.iter().flatten()
    }

    /// Lets go of what is kept: there is no reader any more.
    pub(crate) fn end(&mut self, loose: &mut List) {
        self.announcements = 0;
        for (kept, known) in self.kept.iter_mut().flatten().zip(self.claims.iter_mut().flatten()) {
            loose.append(kept);
            *known = Claim::FREE;
        }
    }
}
