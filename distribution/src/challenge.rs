//! What a registry wants to see: the `WWW-Authenticate` header (RFC 9110, section 11.6.1; distribution project, "Token
//! Authentication Specification").

/// How a registry wants to be shown credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token that another server gives out.
    Bearer {
        /// Address of that server.
        realm: String,
        /// Whom the token is for; may be missing.
        service: Option<String>,
        /// What it must permit; may be missing.
        scope: Option<String>,
    },
    /// Name and password with each request.
    Basic,
}

/// Most bytes of a header that are looked at.
const MAX_HEADER: usize = 4096;

impl Challenge {
    /// The first challenge that we can meet; tokens come before passwords.
    pub(super) fn find<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
        let mut basic = None;
        for header in headers.filter(|header| header.len() <= MAX_HEADER) {
            match Challenge::parse(header) {
                Some(Challenge::Basic) => basic = Some(Challenge::Basic),
                None => {}
                bearer => return bearer,
            }
        }
        basic
    }

    fn parse(header: &str) -> Option<Challenge> {
        let (scheme, parameters) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        let mut rest = parameters;
        while let Some((name, value, after)) = parameter(rest) {
            let place = match name.to_ascii_lowercase().as_str() {
                "realm" => &mut realm,
                "service" => &mut service,
                "scope" => &mut scope,
                _ => &mut None,
            };
            *place = Some(value);
            rest = after;
        }
        Some(Challenge::Bearer {
            realm: realm?,
            service,
            scope,
        })
    }
}

/// The first `name=value` or `name="value"`, and what follows its comma.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = text.split_once('=')?;
    let name = name.trim();
    let rest = rest.trim_start();
    let (value, rest) = match rest.strip_prefix('"') {
        Some(quoted) => unquote(quoted)?,
        None => {
            let end = rest.find(',').unwrap_or(rest.len());
            let (value, rest) = rest.split_at(end);
            (value.trim().to_owned(), rest)
        }
    };
    let rest = rest.trim_start();
    Some((name, value, rest.strip_prefix(',').unwrap_or(rest)))
}

/// A quoted string after its first quote, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find(headers: &[&str]) -> Option<Challenge> {
        Challenge::find(headers.iter().copied())
    }

    #[test]
    fn a_token_is_asked_for_where_the_registry_says() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull,push""#;
        let expected = Challenge::Bearer {
            realm: "https://auth.docker.io/token".to_owned(),
            service: Some("registry.docker.io".to_owned()),
            scope: Some("repository:library/alpine:pull,push".to_owned()),
        };
        assert_eq!(find(&[hub]), Some(expected.clone()));
        assert_eq!(find(&["Basic realm=\"x\"", hub]), Some(expected));
    }

    #[test]
    fn spellings_that_the_rules_allow() {
        let spelled = r#"bearer Realm = "https://a\"b" , error=invalid_token, service=x"#;
        assert_eq!(
            find(&[spelled]),
            Some(Challenge::Bearer {
                realm: "https://a\"b".to_owned(),
                service: Some("x".to_owned()),
                scope: None,
            })
        );
        assert_eq!(find(&["Basic"]), Some(Challenge::Basic));
        assert_eq!(find(&["basic realm=\"Registry\""]), Some(Challenge::Basic));
    }

    #[test]
    fn what_cannot_be_met_is_none() {
        for header in [
            "",
            "Negotiate",
            "Bearer",
            "Bearer service=\"x\"",
            "Bearer realm=\"open",
        ] {
            assert_eq!(find(&[header]), None, "{header}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_to_its_end(header in "\\PC{0,80}", tail in "[=\\\\\", a-z]{0,60}") {
            let _ = find(&[&header, &format!("Bearer {tail}")]);
        }
    }
}
