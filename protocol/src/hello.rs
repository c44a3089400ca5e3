use crate::{Hello, HelloError, MAGIC, VERSION};

impl Hello {
    /// The `Hello` of this side; `build` is the release of the program that speaks.
    pub fn current(build: impl Into<String>) -> Self {
        Self {
            magic: MAGIC,
            version: VERSION,
            build: build.into(),
        }
    }

    /// Whether this `Hello`, received from the peer, opens a connection that this side understands.
    pub fn check(&self) -> Result<(), HelloError> {
        if self.magic != MAGIC {
            return Err(HelloError::Magic);
        }
        if self.version != VERSION {
            return Err(HelloError::Version {
                version: self.version,
                build: self.build.clone(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_its_own_hello() {
        assert_eq!(Hello::current("0.1.0").check(), Ok(()));
    }

    #[test]
    fn names_both_versions_when_they_differ() {
        let newer = Hello {
            version: VERSION + 1,
            ..Hello::current("9.9")
        };
        let text = newer.check().unwrap_err().to_string();
        assert!(text.contains(&format!("version {}", VERSION + 1)), "{text}");
        assert!(text.contains(&format!("this side {VERSION}")), "{text}");
        assert!(text.contains("9.9"), "{text}");
    }

    #[test]
    fn recognises_a_stranger() {
        let stranger = Hello {
            magic: *b"HTTP",
            ..Hello::current("")
        };
        assert_eq!(stranger.check(), Err(HelloError::Magic));
    }
}
