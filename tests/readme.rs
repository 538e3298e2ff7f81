//! What is read first stays short. (Its examples are doctests, its links are followed by `verification/links`.)

#[test]
fn the_readme_fits_a_few_screens() {
    assert!(include_str!("../README.md").lines().count() <= 150);
}

#[test]
fn an_example_is_short_enough_to_copy() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        let lines = std::fs::read_to_string(&entry).unwrap().lines().count();
        assert!(lines <= 95, "{}: {lines} lines", entry.display());
        seen += 1;
    }
    assert!(seen >= 5);
}
