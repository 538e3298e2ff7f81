//! What the README shows is what is there.

const README: &str = include_str!("../README.md");

#[test]
fn the_readme_shows_the_example_as_it_is() {
    let example = include_str!("../examples/store.rs");
    let (_, code) = example.split_once("\n\n").expect("the first line says what it is");
    assert!(README.contains(&format!("```rust,no_run\n{code}```")), "copy examples/store.rs to the README");
    assert!(example.lines().count() < 80);
}

#[test]
fn the_readmes_links_into_the_repository_lead_somewhere() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let paths = README
        .split('`')
        .filter(|word| ["src/", "docs/", "verification/", "examples/"].iter().any(|room| word.starts_with(room)));
    let mut found = 0;
    for path in paths {
        assert!(root.join(path).exists(), "{path} is not there");
        found += 1;
    }
    assert!(found > 3);
}
