//! Follows every link and picture that stays inside the repository: of its Markdown documents, and of the pages that
//! `cargo doc` made of the crate. Links to other sites are not followed.
//!
//! `cargo doc --no-deps && cargo run -p links`

use pulldown_cmark::{Event, Parser, Tag, TagEnd};
use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).ok_or("the package is not where it was")?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let mut pages = HashMap::new();
    for path in documents(root)? {
        let text = fs::read_to_string(&path)?;
        // Guides link to items of the crate: rustdoc checks these.
        let is_guide = path.starts_with(root.join("docs/guide"));
        let mut page = markdown(&text);
        page.links.retain(|link| !(is_guide && link.starts_with("crate::")));
        pages.insert(path, page);
    }
    let (documents, rendered) = (pages.len(), target.join("doc/trapline"));
    let mut folders = vec![rendered.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "html") {
                let page = html(&fs::read_to_string(&path)?);
                pages.insert(path, page);
            }
        }
    }
    let (mut links, mut broken) = (0, Vec::new());
    for (path, page) in &pages {
        for link in &page.links {
            if link.contains("://") || link.starts_with("mailto:") || link.starts_with("javascript:") {
                continue;
            }
            links += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let file = file.split('?').next().unwrap_or_default();
            let Some(to) = resolve(path, file) else {
                broken.push(format!("{}: {link}: nothing is there", path.display()));
                continue;
            };
            // Line numbers in the source view are made by its script.
            let is_source = to.starts_with(target.join("doc/src"));
            if !anchor.is_empty()
                && !is_source
                && let Some(page) = pages.get(&to)
                && !page.anchors.contains(anchor)
            {
                broken.push(format!("{}: {link}: no such heading", path.display()));
            }
        }
    }
    broken.sort();
    broken.iter().for_each(|line| eprintln!("{line}"));
    println!("{links} links of {documents} documents and {} pages: {} broken", pages.len() - documents, broken.len());
    if links == 0 || pages.len() == documents {
        return Err("nothing was checked".into());
    }
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The Markdown files that are part of the repository, or are about to be.
fn documents(root: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let list = ["ls-files", "--cached", "--others", "--exclude-standard", "*.md"];
    let output = Command::new("git").args(list).current_dir(root).output()?;
    Ok(String::from_utf8(output.stdout)?.lines().map(|line| root.join(line)).collect())
}

/// Where links of a page go, and where on it they can go.
#[derive(Default)]
struct Page {
    links: Vec<String>,
    anchors: HashSet<String>,
}

fn markdown(text: &str) -> Page {
    let (mut page, mut heading) = (Page::default(), None::<String>);
    for event in Parser::new_ext(text, pulldown_cmark::Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => page.links.push(dest_url.into()),
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => page.anchors.extend(heading.take().map(|heading| slug(&heading))),
            Event::Text(words) | Event::Code(words) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&words);
                }
            }
            _ => {}
        }
    }
    page
}

/// What hosts of repositories make of a heading.
fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn html(text: &str) -> Page {
    let attributes = |name: &str| {
        let start = format!(" {name}=\"");
        text.split(&start).skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.replace("&amp;", "&"))).collect()
    };
    let mut links: Vec<String> = attributes("href");
    links.extend::<Vec<String>>(attributes("src"));
    Page { links, anchors: attributes("id").into_iter().collect::<HashSet<String>>() }
}

/// The file that `link` on the page at `page` leads to, if it is there.
fn resolve(page: &Path, link: &str) -> Option<PathBuf> {
    if link.is_empty() {
        return Some(page.to_path_buf());
    }
    let to = fs::canonicalize(page.parent()?.join(link)).ok()?;
    Some(if to.is_dir() { [to.join("index.html"), to].into_iter().find(|path| path.exists())? } else { to })
}
