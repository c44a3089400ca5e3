use proptest::prelude::*;

use super::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn parse(text: &str) -> Reference {
    match text.parse() {
        Ok(reference) => reference,
        Err(error) => panic!("{text}: {error}"),
    }
}

#[test]
fn names_are_completed_as_docker_does() {
    for (text, canonical) in [
        ("alpine", "docker.io/library/alpine:latest"),
        ("python:3.12", "docker.io/library/python:3.12"),
        ("user/app", "docker.io/user/app:latest"),
        ("a/b/c:1", "docker.io/a/b/c:1"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
        (
            "docker.io/library/alpine",
            "docker.io/library/alpine:latest",
        ),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest"),
        ("localhost:5000", "docker.io/library/localhost:5000"),
        ("127.0.0.1:5000/x:y", "127.0.0.1:5000/x:y"),
        ("[::1]:5000/x", "[::1]:5000/x:latest"),
        ("[2001:db8::1]/x", "[2001:db8::1]/x:latest"),
        ("Example/x", "Example/x:latest"),
        ("EXAMPLE.com/x", "EXAMPLE.com/x:latest"),
        ("ghcr.io/x/y", "ghcr.io/x/y:latest"),
        ("xn--7o8h.com/x:xn--7o8h", "xn--7o8h.com/x:xn--7o8h"),
        ("a__b/c-----d", "docker.io/a__b/c-----d:latest"),
        ("deadbeef", "docker.io/library/deadbeef:latest"),
        ("x:_tag.A-b", "docker.io/library/x:_tag.A-b"),
    ] {
        assert_eq!(parse(text).to_string(), canonical, "{text}");
    }
}

#[test]
fn a_digest_replaces_the_tag_that_is_not_given() {
    let reference = parse(&format!("ghcr.io/x/y@{DIGEST}"));
    assert_eq!(reference.registry(), "ghcr.io");
    assert_eq!(reference.repository(), "x/y");
    assert_eq!(reference.tag(), None);
    assert_eq!(reference.digest(), Some(&Digest::of(b"")));
    let both = parse(&format!("x:1@{DIGEST}"));
    assert_eq!(both.tag(), Some("1"));
    assert_eq!(both.to_string(), format!("docker.io/library/x:1@{DIGEST}"));
    assert_eq!(both.familiar(), format!("x:1@{DIGEST}"));
}

#[test]
fn names_are_shown_as_people_write_them() {
    for (text, familiar, tagged) in [
        ("docker.io/library/alpine:latest", "alpine", "alpine:latest"),
        ("docker.io/user/app:2", "user/app:2", "user/app:2"),
        ("library/a/b", "library/a/b", "library/a/b:latest"),
        (
            "ghcr.io/library/x",
            "ghcr.io/library/x",
            "ghcr.io/library/x:latest",
        ),
    ] {
        assert_eq!(parse(text).familiar(), familiar);
        assert_eq!(parse(text).familiar_tagged(), tagged);
    }
}

#[test]
fn what_is_no_name_is_refused() {
    let identifier = "a".repeat(64);
    let sha512 = format!("x@sha512:{}", "0".repeat(128));
    for text in [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        "Alpine",
        "a/B",
        "x:",
        "x:.",
        "x:-a",
        "x:a b",
        "x:a:b",
        "x@",
        "x@sha256:1",
        "x@@",
        "-a",
        "a-",
        "a..b",
        "a._b",
        "a___b",
        "a.",
        ".a",
        "a b",
        "a\nb",
        "\u{fc}",
        "../x",
        "a/../b",
        "./x",
        "localhost:/x",
        "localhost:x/y",
        "-.com/x",
        "a_b.c/d",
        "[::1/x",
        "[]/x",
        "[::g]/x",
        "[::1]x/y",
        "[::1]:/y",
        "http://x/y",
        "x/y@z/w",
        &identifier,
        &sha512,
    ] {
        assert!(text.parse::<Reference>().is_err(), "{text:?}");
    }
    assert!(
        "Alpine"
            .parse::<Reference>()
            .unwrap_err()
            .to_string()
            .contains("lower case")
    );
}

#[test]
fn the_parts_have_limits() {
    let tag = "t".repeat(128);
    assert!(format!("x:{tag}").parse::<Reference>().is_ok());
    assert!(format!("x:{tag}t").parse::<Reference>().is_err());
    let repository = "r".repeat(255);
    assert!(format!("h.io/{repository}").parse::<Reference>().is_ok());
    // `library/` counts.
    for text in [format!("h.io/{repository}r"), repository] {
        let error = text.parse::<Reference>().unwrap_err();
        assert!(
            matches!(
                error,
                ReferenceError::TooLong {
                    part: "repository",
                    ..
                }
            ),
            "{error}"
        );
    }
    let registry = format!("{}.io/x", "h".repeat(300));
    assert!(registry.parse::<Reference>().is_err());
}

proptest! {
    #[test]
    fn any_text_is_refused_or_has_one_canonical_name(text in "\\PC{0,80}") {
        check(&text)?;
    }

    #[test]
    fn texts_that_are_nearly_names_are_refused_or_have_one_canonical_name(
        text in "([a-zA-Z0-9._\\[\\]-]{1,9}(:[0-9a-z]{0,5})?/){0,3}[a-zA-Z0-9._-]{1,9}(:[a-zA-Z0-9._-]{0,5})?"
    ) {
        check(&text)?;
    }
}

fn check(text: &str) -> Result<(), TestCaseError> {
    if let Ok(reference) = text.parse::<Reference>() {
        prop_assert_eq!(&parse(&reference.to_string()), &reference);
        prop_assert_eq!(&parse(&reference.familiar()), &reference);
        prop_assert_eq!(&parse(&reference.familiar_tagged()), &reference);
        // A tag may have them (distribution/reference), but begins with none, so that it leads nowhere.
        prop_assert!(!reference.registry().contains(".."));
        prop_assert!(!reference.repository().contains(".."));
        prop_assert!(reference.tag().is_none_or(|tag| !tag.starts_with('.')));
    }
    Ok(())
}
