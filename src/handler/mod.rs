//! The code of lookups: what a signal handler executes to find, read and search. Read these rules before changing a file
//! of this folder.
//!
//! A handler may have interrupted any instruction of any thread: `malloc`, a writer, another lookup, a thread that is
//! being created or torn down. So nothing in this folder may
//!
//! 1. take a lock, or wait for another thread in any other way (P1);
//! 2. allocate, free, or run a destructor of the payload (P2, P5);
//! 3. touch thread-local storage, or anything that is initialised lazily (P2);
//! 4. make a system call (P2);
//! 5. panic: no `[]` that the compiler cannot prove, no `unwrap`, no arithmetic that can overflow or divide by
//!    zero (P2). `get`, `wrapping_*`, `checked_*` and `get_unchecked` with an argument are fine;
//! 6. use anything but `core` and the atomics of [`crate::sync`].
//!
//! A handler gets here through thin entry points elsewhere. They are under the same rules, and all of them are listed:
//! `verification/reachable` walks the machine code of each from the entry beside it, and fails if this list is not
//! complete. The handlers in `signal` have two more rules, for catching a trap and for passing a signal on.
//!
//! | entry point | walked from |
//! |---|---|
//! | `CodeRegistry::with`, `CodeId::as_u64`, `process::with`, `process::trap_code` | `entry_lookup` |
//! | `CodeRegistry::view`, `View::get`, `process::view` | `entry_view` |
//! | `RegisteredText::trap_code`, `RegisteredText::image`, `RegisteredText::is_private` | `entry_text` |
//! | `Image::trap_code`, `TrapTable::get` | `entry_text` |
//! | `Guard::get` | `entry_guard` |
//! | `CodeRegistry::stats`, `process::stats`, `process::mapping_stats` | `entry_stats` |
//! | `Backtrace::walk`, `Backtrace::walk_in`, `Backtrace::new`, `Backtrace::clear` | `entry_walk` |
//! | `Backtrace::pcs`, `Backtrace::len`, `Backtrace::is_empty`, `Backtrace::end` | `entry_walk` |
//! | `signal::sample` | `entry_sample` |
//! | `signal::handle_signal` | `entry_signal` |
//! | `signal::installed` | `entry_installed` |
//! | `trapline::signal::install::on_signal` | `trapline::signal::install::on_signal` |
//!
//! | file | what is in it |
//! |---|---|
//! | `gate` | how a handler holds off the freeing of what it reads |
//! | `node` | the layout of the published nodes, and how one is searched |
//! | `search` | the comparison of one pc with a node's keys |
//! | `trap_code` | why a trap site traps, and its encoding |
//! | `traps` | the search of an encoded trap table |
//! | `walk` | the walk of a stack by its frame pointers |

pub(crate) mod gate;
pub(crate) mod node;
pub(crate) mod search;
pub(crate) mod trap_code;
#[cfg(feature = "image")]
pub(crate) mod traps;
pub(crate) mod walk;
