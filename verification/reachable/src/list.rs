//! The list of entry points in `src/handler/mod.rs`, held against the program that is walked and against the docs.
//!
//! A row of the list is `| Type::function, other | entry |`: what a handler may call, and the function of
//! `handler_entries` that calls it, so that it is walked.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Everything that is wrong with the list.
pub fn broken(list: &str, entries: &str, walked: &[&str], documented: &BTreeSet<String>) -> Vec<String> {
    let mut broken = Vec::new();
    let rows: Vec<(&str, &str)> = rows(list).collect();
    for (function, entry) in &rows {
        let name = function.rsplit("::").next().unwrap_or(function);
        if !walked.contains(entry) {
            broken.push(format!("{function} is said to be walked from {entry}, which is not"));
        } else if *entry != *function && !body(entries, entry).is_some_and(|body| calls(body, name)) {
            broken.push(format!("{entry} does not call {function}"));
        }
    }
    let listed: BTreeSet<&str> = rows.iter().map(|row| row.0).collect();
    for entry in walked.iter().filter(|entry| rows.iter().all(|row| row.1 != **entry)) {
        broken.push(format!("{entry} is walked, but nothing in the list is said to be walked from it"));
    }
    for function in documented.iter().filter(|function| !listed.contains(function.as_str())) {
        broken.push(format!("{function} is documented as async-signal-safe, but not in the list"));
    }
    broken
}

/// Each function of the list, with its entry.
fn rows(list: &str) -> impl Iterator<Item = (&str, &str)> {
    let table = list.lines().skip_while(|line| !line.starts_with("//! | entry point |")).skip(2);
    table.map_while(|line| line.strip_prefix("//! | ")?.strip_suffix(" |")?.split_once(" | ")).flat_map(
        |(functions, entry)| {
            functions.split(", ").map(move |function| (function.trim_matches('`'), entry.trim_matches('`')))
        },
    )
}

/// The text of a function at the top level of a file.
fn body<'t>(file: &'t str, function: &str) -> Option<&'t str> {
    let (_, rest) = file.split_once(&format!("fn {function}("))?;
    rest.split("\n}").next()
}

/// Whether `name` is called: `name(` with no letter before it.
fn calls(body: &str, name: &str) -> bool {
    body.match_indices(&format!("{name}(")).any(|(at, _)| body[..at].ends_with(['.', ':']))
}

/// All functions outside of `handler` whose section "Signal safety" says that a handler may call them.
pub fn documented(src: &Path) -> std::io::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(src)? {
        let path = entry?.path();
        if path.is_dir() {
            if !path.ends_with("src/handler") {
                found.extend(documented(&path)?);
            }
        } else {
            let folder = src.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            found.extend(documented_in(&fs::read_to_string(&path)?, &folder));
        }
    }
    Ok(found)
}

fn documented_in(file: &str, folder: &str) -> Vec<String> {
    let (mut owner, mut safe, mut found) = (folder.to_owned(), false, Vec::new());
    for line in file.lines() {
        let code = line.trim_start();
        if let Some(rest) = line.strip_prefix("impl") {
            owner = implemented(rest);
        } else if line == "}" {
            owner = folder.to_owned();
        } else if code.starts_with("/// Async-signal-safe") {
            safe = true;
        } else if !code.starts_with("//") && !code.starts_with('#') {
            if let Some((_, name)) = code.split_once("fn ").filter(|_| safe) {
                let name = name.split(['<', '(']).next().unwrap_or_default();
                found.push(format!("{owner}::{name}"));
            }
            safe = false;
        }
    }
    found
}

/// `Type` of `impl<T> Type<T> {` or of `impl Trait for Type {`.
fn implemented(rest: &str) -> String {
    let mut depth = 0;
    let rest = rest.trim_start_matches(|letter| {
        depth += i32::from(letter == '<') - i32::from(letter == '>');
        depth > 0 || letter == '>' || letter == ' '
    });
    let name = rest.rsplit(" for ").next().unwrap_or(rest);
    name.split(['<', ' ', ':']).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str =
        "//! | entry point | walked from |\n//! |---|---|\n//! | `Gate::with`, `gate::stats` | `entry_a` |\n//!\n";
    const ENTRIES: &str = "extern fn entry_a() {\n    GATE.with(1);\n    gate::stats()\n}\n";

    fn documented_now() -> BTreeSet<String> {
        let file = "impl<T: Send> Gate<T> {\n    /// Async-signal-safe.\n    #[inline]\n    pub fn with<R>(&self) {}\n}\n\
                    /// Async-signal-safe.\npub fn stats() {}\n/// Not for handlers: allocates.\npub fn other() {}\n";
        documented_in(file, "gate").into_iter().collect()
    }

    #[test]
    fn a_list_that_is_true_is_fine() {
        assert_eq!(documented_now(), ["Gate::with", "gate::stats"].map(String::from).into());
        assert_eq!(broken(LIST, ENTRIES, &["entry_a"], &documented_now()), [""; 0]);
    }

    #[test]
    fn a_function_that_is_documented_as_safe_must_be_listed() {
        let shorter = LIST.replace(", `gate::stats`", "");
        assert!(broken(&shorter, ENTRIES, &["entry_a"], &documented_now())[0].contains("gate::stats is documented"));
    }

    #[test]
    fn what_is_listed_must_be_called_by_its_entry() {
        let less = ENTRIES.replace("gate::stats()", "0");
        assert!(broken(LIST, &less, &["entry_a"], &documented_now())[0].contains("does not call gate::stats"));
    }

    #[test]
    fn what_is_walked_must_be_listed_as_an_entry() {
        assert!(broken(LIST, ENTRIES, &["entry_a", "entry_b"], &documented_now())[0].contains("entry_b is walked"));
        assert!(broken(LIST, ENTRIES, &[], &documented_now())[0].contains("entry_a, which is not"));
    }
}
