//! curl, which shows what is really on the wire.

use anyhow::{Context as _, Result, ensure};
use onggi_common_host::durable::{self, Visibility};
use onggi_integration::system::{System, run};
use std::path::Path;

/// A session.
pub(crate) struct Curl {
    pub(crate) token: String,
    pub(crate) url: String,
}

/// What curl saw: the status and the body.
pub(crate) type Seen = (u16, String);

/// A request of [`Curl::many`]: method, path, headers, body.
pub(crate) type Sent<'a> = (&'a str, &'a str, &'a [&'a str], &'a str);

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

    /// Sends many requests at a time, from one curl: a method, a path, headers and a body each. What each was answered, in
    /// no order.
    pub(crate) fn many(&self, requests: &[Sent<'_>]) -> Result<Vec<(String, u16)>> {
        const AT_A_TIME: &str = "24";
        let mut config = String::new();
        for (method, path, headers, body) in requests {
            if !config.is_empty() {
                config.push_str("next\n");
            }
            let token = format!("X-Auth-Token: {}", self.token);
            for header in headers.iter().copied().chain([token.as_str()]) {
                config.push_str(&format!("header = \"{header}\"\n"));
            }
            if !body.is_empty() {
                config.push_str(&format!("data-binary = \"{body}\"\n"));
            }
            let url = format!("{}{path}", self.url);
            // With HEAD as just another method curl would wait for the body.
            let how = match *method {
                "HEAD" => "head".to_owned(),
                method => format!("request = \"{method}\""),
            };
            config.push_str(&format!(
                "url = \"{url}\"\n{how}\noutput = \"/dev/null\"\nmax-time = 30\n\
                 write-out = \"{method} %{{http_code}}\\n\"\n"
            ));
        }
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("requests");
        durable::replace(&file, config.as_bytes(), Visibility::Owner)?;
        let file = file.to_str().context("path")?;
        let arguments = ["-sS", "-Z", "--parallel-max", AT_A_TIME, "-K", file];
        let answer = text(&run(Path::new("curl"), &arguments, &[])?);
        let lines = answer.lines().filter_map(|line| line.split_once(' '));
        let answers: Vec<(String, u16)> = lines
            .map(|(method, status)| Ok((method.to_owned(), status.parse()?)))
            .collect::<Result<_>>()?;
        ensure!(answers.len() == requests.len(), "{answer}");
        Ok(answers)
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
