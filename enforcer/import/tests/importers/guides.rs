//! The examples of docs/coming-from.md are what an import gives.

use enforcer_import::compose::{Options, Source};
use enforcer_import::systemd::Files;
use enforcer_import::{Imported, compose, kubernetes, systemd};

const GUIDES: &str = include_str!("../../../../docs/coming-from.md");

/// Returns the texts of a section that are set apart as code.
fn examples(section: &str) -> Vec<&'static str> {
    let heading = format!("\n## {section}\n");
    let (_, rest) = GUIDES.split_once(&heading).expect("the section");
    let section = rest.split("\n## ").next().expect("the section");
    let parts = section.split("\n```").skip(1).step_by(2);
    parts
        .map(|part| part.split_once('\n').map_or("", |(_, text)| text))
        .collect()
}

fn check(section: &str, import: impl Fn(&str) -> Imported) {
    let [source, manifest, report] = examples(section)[..] else {
        panic!("expected a source, a manifest and a report in {section}");
    };
    let imported = import(source);
    assert_eq!(imported.manifest.trim_end(), manifest, "{section}");
    let lines: Vec<String> = imported
        .report
        .iter()
        .map(|line| {
            let colon = if line.note.is_empty() { "" } else { ": " };
            format!("{:<6} {}{colon}{}", line.verdict, line.key, line.note)
        })
        .collect();
    assert_eq!(lines.join("\n"), report, "{section}");
    assert!(imported.carries_over());
}

fn source(name: &str, text: &str) -> Source {
    Source {
        name: name.to_owned(),
        text: text.to_owned(),
    }
}

#[test]
fn compose_is_imported_as_its_guide_says() {
    check("From Compose", |text| {
        let nothing = |_: &str| Err(String::new());
        let source = source("compose.yaml", text);
        compose(&[source], &Options::default(), &nothing).expect("it is imported")
    });
}

#[test]
fn kubernetes_is_imported_as_its_guide_says() {
    check("From Kubernetes", |text| {
        let source = source("shop.yaml", text);
        kubernetes(&[source], &kubernetes::Options::default()).expect("it is imported")
    });
}

#[test]
fn a_unit_is_imported_as_its_guide_says() {
    check("From systemd", |text| {
        let unit = Files {
            name: "shop.service".to_owned(),
            files: vec![source("/etc/systemd/system/shop.service", text)],
        };
        systemd(&[unit]).expect("it is imported")
    });
}
