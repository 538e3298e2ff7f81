//! The other programs of this package, which a measurement runs: with an allocator that counts, or under valgrind.

use std::path::PathBuf;
use std::process::Command;

/// Builds one of the package's programs, optimised, and says where it is.
pub fn build(name: &str) -> Result<PathBuf, String> {
    let cargo = std::env::var("CARGO").unwrap_or("cargo".into());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let arguments = ["build", "--release", "--quiet", "--manifest-path", manifest, "--bin", name];
    run(Command::new(cargo).args(arguments))?;
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = here.ancestors().nth(2).ok_or("this program is in no target folder")?;
    Ok(target.join("release").join(name))
}

/// Runs a command, and gives what it writes; an error says what went wrong.
pub fn run(command: &mut Command) -> Result<String, String> {
    let result = command.output();
    let failed = |why: String| format!("`{}`: {why}", command_line(command));
    let output = result.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn command_line(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
