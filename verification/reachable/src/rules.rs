//! What an entry may reach.

use crate::walk::Reached;

/// Functions of the C library that every entry may use: they only touch the memory they are given.
const PURE: [&str; 5] = ["memcpy", "memmove", "memset", "memcmp", "bcmp"];

/// What passing a signal on needs. All are on POSIX's list of async-signal-safe functions, or are single system calls.
const PASSING_ON: [&str; 6] = ["__errno_location", "pthread_sigmask", "sigaction", "getpid", "gettid", "syscall"];

/// No name of a function that a handler may reach contains one of these.
const WORDS: [&str; 17] = [
    "panic",
    "unwrap_failed",
    "expect_failed",
    "_fail",
    "abort",
    "unwind",
    "alloc",
    "free",
    "lock",
    "futex",
    "once",
    "tls_get_addr",
    "drop_slow",
    "drop_in_place",
    "thread_local",
    "print",
    "format",
];

/// What kind of entry it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It looks up: nothing but loads, and the gate.
    Lookup,
    /// It catches a trap: may touch this thread's activation.
    Signal,
    /// It also passes signals on to handlers that it cannot know.
    Handler,
}

/// The rules that were broken, in words.
pub fn broken(kind: Kind, reached: &Reached) -> Vec<String> {
    let mut broken = Vec::new();
    for (import, users) in &reached.imports {
        let allowed = PURE.contains(&import.as_str()) || kind == Kind::Handler && PASSING_ON.contains(&import.as_str());
        if !allowed {
            broken.push(format!("imports {import} (in {})", users.iter().cloned().collect::<Vec<_>>().join(", ")));
        }
    }
    for (function, from) in reached.functions.iter().filter(|(function, _)| !is_harmless(function)) {
        broken.push(format!("reaches {function} from {from}"));
    }
    for place in reached.thread_local.iter().filter(|place| !may_touch_activation(kind, &place.function)) {
        broken.push(format!("touches a thread-local in {}: {}", place.function, place.instruction));
    }
    for place in reached.indirect_calls.iter().filter(|place| !may_call_old_handler(kind, &place.function)) {
        broken.push(format!("calls what nobody knows in {}: {}", place.function, place.instruction));
    }
    // One for each kind of handler: with information, and without.
    if reached.indirect_calls.len() > 2 {
        broken.push(format!("calls what nobody knows in {} places", reached.indirect_calls.len()));
    }
    for place in &reached.lost {
        broken.push(format!("jumps where nobody knows in {}: {}", place.function, place.instruction));
    }
    for place in &reached.system_calls {
        broken.push(format!("enters the kernel in {}: {}", place.function, place.instruction));
    }
    broken
}

/// Functions of this crate, of the entries' own program and of the language's core library, without a word above.
pub fn is_harmless(function: &str) -> bool {
    let path = function.trim_start_matches(['<', '&']);
    let name = function.to_lowercase();
    if WORDS.iter().any(|word| name.contains(word)) && !path.starts_with("control_") {
        return false;
    }
    path.starts_with("trapline::")
        || path.starts_with("core::")
        || path.starts_with("entry_")
        // A closure of an entry, where the compiler does not inline it.
        || path.starts_with("handler_entries::entry_")
        || path.starts_with("control_")
}

fn may_touch_activation(kind: Kind, function: &str) -> bool {
    let asks =
        ["trapline::signal::handle", "trapline::signal::innermost", "trapline::signal::activation::Activation::"];
    kind != Kind::Lookup && asks.iter().any(|prefix| function.starts_with(prefix))
}

/// Passing on may be inlined into the handler.
fn may_call_old_handler(kind: Kind, function: &str) -> bool {
    let passes_on = ["trapline::signal::chain::", "trapline::signal::install::on_signal"];
    kind == Kind::Handler && passes_on.iter().any(|prefix| function.starts_with(prefix))
}
