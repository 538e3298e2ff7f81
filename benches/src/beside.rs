//! wasmtime beside us: a program in a workspace of its own (`benches/wasmtime`), asked line by line.
//!
//! It is another process, so that neither its handlers nor its dependencies meet ours, and it does nothing between two
//! questions, so that it takes its turns with the contenders here.

use crate::work::Options;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The running program.
pub struct Wasmtime {
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    version: String,
}

impl Wasmtime {
    /// Builds and starts it. Built for the first time it takes minutes, so that a quick run does without.
    ///
    /// # Errors
    ///
    /// Why there is nothing to be measured.
    pub fn start(options: &Options) -> Result<Self, String> {
        if options.quick {
            return Err("a quick run does not build wasmtime".into());
        }
        let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
        let manifest = PathBuf::from_iter([env!("CARGO_MANIFEST_DIR"), "wasmtime", "Cargo.toml"]);
        let run = |command: &str| {
            let mut run = Command::new(&cargo);
            run.args([command, "--release", "--quiet", "--manifest-path"]).arg(&manifest);
            run
        };
        let built = run("build").status().map_err(|error| format!("cargo could not be run: {error}"))?;
        if !built.success() {
            return Err(format!("cargo could not build {}", manifest.display()));
        }
        let child = run("run").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| format!("the program could not be run: {error}"))?;
        let (Some(questions), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the program cannot be asked".into());
        };
        let answers = BufReader::new(answers);
        let mut this = Self { child, questions: Some(questions), answers, version: String::new() };
        let version = this.ask("version")?;
        this.version = version["version"].as_str().unwrap_or("unknown").into();
        Ok(this)
    }

    /// Of wasmtime.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Nanoseconds for each of what `question` asks for.
    ///
    /// # Errors
    ///
    /// What it said instead of a time.
    pub fn time(&mut self, question: &str) -> Result<f64, String> {
        let answer = self.ask(question)?;
        answer["ns"].as_f64().ok_or(format!("to `{question}` the program said {answer}"))
    }

    fn ask(&mut self, question: &str) -> Result<Value, String> {
        let gone = |error| format!("the program did not answer `{question}`: {error}");
        let Some(questions) = &mut self.questions else { return Err("the program has ended".into()) };
        writeln!(questions, "{question}").map_err(gone)?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).map_err(gone)?;
        serde_json::from_str(&answer).map_err(|error| gone(error.into()))
    }
}

impl Drop for Wasmtime {
    fn drop(&mut self) {
        // It ends when there are no more questions.
        self.questions = None;
        let _ = self.child.wait();
    }
}
