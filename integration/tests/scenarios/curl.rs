//! curl, which shows what is really on the wire.

use anyhow::{Context as _, Result, ensure};
use onggi_integration::system::{System, run};
use std::path::Path;

/// A session.
pub(crate) struct Curl {
    pub(crate) token: String,
    pub(crate) url: String,
}

/// What curl saw: the status and the body.
pub(crate) type Seen = (u16, String);

fn text(output: &onggi_common_host::run::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Curl {
    pub(crate) fn login(system: &System, login: &str) -> Result<Self> {
        let auth = format!("http://{}/auth/v1.0", system.addresses.objects);
        let key = format!("X-Auth-Key: {}", system.keys[login]);
        let answer = text(&run(
            Path::new("curl"),
            &[
                "-sS",
                "-i",
                "-m",
                "20",
                "-H",
                &format!("X-Auth-User: {login}"),
                "-H",
                &key,
                &auth,
            ],
            &[],
        )?);
        let header = |name: &str| {
            let mut lines = answer.lines().filter_map(|line| line.split_once(": "));
            lines
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim().to_owned())
        };
        let missing = || format!("no token in {answer}");
        Ok(Self {
            token: header("X-Auth-Token").with_context(missing)?,
            url: header("X-Storage-Url").with_context(missing)?,
        })
    }

    /// Sends a request with the session's token.
    pub(crate) fn call(&self, path: &str, arguments: &[&str]) -> Result<Seen> {
        let token = format!("X-Auth-Token: {}", self.token);
        let url = format!("{}{path}", self.url);
        let mut all = vec![
            "-sS",
            "-m",
            "30",
            "--path-as-is",
            "-H",
            &token,
            "-w",
            "\n%{http_code}",
        ];
        all.extend(arguments);
        all.push(&url);
        let answer = text(&run(Path::new("curl"), &all, &[])?);
        let (body, status) = answer.rsplit_once('\n').context("curl said nothing")?;
        Ok((status.parse()?, body.to_owned()))
    }

    /// Puts a container or object.
    pub(crate) fn put(&self, path: &str, body: &str) -> Result<()> {
        let (status, said) = self.call(path, &["-X", "PUT", "--data-binary", body])?;
        ensure!(
            status == 201 || status == 202,
            "PUT {path}: {status} {said}"
        );
        Ok(())
    }

    /// The bytes of an object.
    pub(crate) fn download(&self, path: &str) -> Result<Vec<u8>> {
        let token = format!("X-Auth-Token: {}", self.token);
        let url = format!("{}{path}", self.url);
        let arguments = ["-sS", "-f", "-m", "30", "--path-as-is", "-H", &token, &url];
        Ok(run(Path::new("curl"), &arguments, &[])?.stdout)
    }
}
