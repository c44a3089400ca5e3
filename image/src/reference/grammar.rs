//! The parts of names, after the grammar at the head of `distribution/reference`.

/// Longest tag, in bytes.
const MAX_TAG: usize = 128;

/// Whether it is the identifier of an image in Docker: no name may be mistaken for one.
pub(super) fn is_identifier(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A domain name, an IPv4 address or an IPv6 address in brackets; and perhaps a port.
pub(super) fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => return is_ipv6(address),
            Some((address, after)) => match after.strip_prefix(':') {
                Some(port) => return is_ipv6(address) && is_port(port),
                None => return false,
            },
            None => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    host.split('.').all(is_domain_component) && port.is_none_or(is_port)
}

fn is_ipv6(address: &str) -> bool {
    !address.is_empty()
        && address
            .bytes()
            .all(|byte| byte == b':' || byte.is_ascii_hexdigit())
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_domain_component(component: &str) -> bool {
    let inner = |byte: u8| byte == b'-' || byte.is_ascii_alphanumeric();
    !component.is_empty()
        && component.bytes().all(inner)
        && !component.starts_with('-')
        && !component.ends_with('-')
}

/// Components of a path, separated by `/`.
pub(super) fn is_repository(text: &str) -> bool {
    text.split('/').all(is_path_component)
}

/// Letters and digits, in groups with one separator between each two: `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let is_alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut rest = component.as_bytes();
    loop {
        let group = rest.iter().take_while(|byte| is_alphanumeric(byte)).count();
        let (_, after) = rest.split_at(group);
        if group == 0 {
            return false;
        }
        let separator = after
            .iter()
            .take_while(|byte| !is_alphanumeric(byte))
            .count();
        let (separator, after) = after.split_at(separator);
        match separator {
            b"" => return true,
            b"." | b"_" | b"__" => {}
            dashes if dashes.iter().all(|byte| *byte == b'-') => {}
            _ => return false,
        }
        rest = after;
    }
}

pub(super) fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte == b'_' || byte.is_ascii_alphanumeric();
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(is_word)
        && text
            .bytes()
            .all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}
