//! Customers' own host names: one that the DNS says is a name for a host of the storage domain is taken for that host.
//!
//! Only `CNAME` records are asked for, of one server, over UDP from a new port with a random number each time. What it
//! says is believed: who can forge its answers can lead a host name to another account, but opens nothing that the
//! account's rights do not.

use crate::fault::Fault;
use crate::subrequest::text;
use core::future::Future;
use core::pin::Pin;
use core::time::Duration;
use http::request::Parts as Head;
use http::{HeaderMap, HeaderValue, header};
use onggi_common_host::{Clock, Entropy};
use onggi_common_service::config::CnameLookup as Config;
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, RCODE, TYPE};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::UdpSocket;

/// How long one question may take, and how often it is asked.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);
const TRIES: usize = 2;
/// Bytes of an answer over UDP.
const ANSWER_BYTES_MAX: usize = 4_096;
/// Host names remembered at a time.
const NAMES_MAX: usize = 10_000;
/// How long it is remembered that a host has no other name.
const MISSING_FOR: Duration = Duration::from_secs(60);
/// How long any answer is remembered at most.
const REMEMBERED_MAX: Duration = Duration::from_secs(3_600);
/// Bytes of a host name.
const NAME_BYTES_MAX: usize = 253;

/// What a name stands for, and for how long; `None` when it stands for itself.
type Found = (Option<String>, Duration);
/// An answer on its way; `None` when there is none.
type Asked<'a> = Pin<Box<dyn Future<Output = Option<Found>> + Send + 'a>>;

/// Who knows what names stand for.
pub(crate) trait Resolver: Send + Sync {
    /// The `CNAME` of a host.
    fn cname<'a>(&'a self, host: &'a str) -> Asked<'a>;
}

/// A name server.
struct Server {
    address: SocketAddr,
    entropy: Arc<dyn Entropy>,
}

fn question(id: u16, host: &str) -> Option<Vec<u8>> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(host).ok()?;
    let question = Question::new(name, TYPE::CNAME.into(), CLASS::IN.into(), false);
    packet.questions.push(question);
    packet.build_bytes_vec().ok()
}

/// What an answer says; `None` when it is none to this question.
fn answer(id: u16, host: &str, bytes: &[u8]) -> Option<Found> {
    let packet = Packet::parse(bytes).ok()?;
    let is_for = |name: &Name<'_>| name.to_string().eq_ignore_ascii_case(host);
    let is_answer = packet.id() == id
        && packet.has_flags(PacketFlag::RESPONSE)
        && packet.questions.len() == 1
        && packet
            .questions
            .iter()
            .all(|question| is_for(&question.qname));
    if !is_answer {
        return None;
    }
    match packet.rcode() {
        RCODE::NoError => {}
        RCODE::NameError => return Some((None, MISSING_FOR)),
        _ => return None,
    }
    let found = packet
        .answers
        .iter()
        .find_map(|record| match &record.rdata {
            RData::CNAME(target) if is_for(&record.name) => {
                let lasts = Duration::from_secs(record.ttl.into());
                Some((Some(target.0.to_string().to_ascii_lowercase()), lasts))
            }
            _ => None,
        });
    Some(found.unwrap_or((None, MISSING_FOR)))
}

impl Server {
    async fn ask(&self, host: &str) -> Option<Found> {
        let mut id = [0; 2];
        self.entropy.fill(&mut id);
        let id = u16::from_be_bytes(id);
        let question = question(id, host)?;
        let any: SocketAddr = if self.address.is_ipv4() {
            ([0, 0, 0, 0], 0).into()
        } else {
            ([0; 16], 0).into()
        };
        let socket = UdpSocket::bind(any).await.ok()?;
        // Connected: answers of others are left out by the kernel.
        socket.connect(self.address).await.ok()?;
        socket.send(&question).await.ok()?;
        let mut bytes = vec![0; ANSWER_BYTES_MAX];
        loop {
            let length = socket.recv(&mut bytes).await.ok()?;
            let said = bytes.get(..length).unwrap_or_default();
            if let Some(found) = answer(id, host, said) {
                return Some(found);
            }
        }
    }
}

impl Resolver for Server {
    fn cname<'a>(&'a self, host: &'a str) -> Asked<'a> {
        Box::pin(async move {
            for _ in 0..TRIES {
                let asked = tokio::time::timeout(ANSWER_TIME_MAX, self.ask(host)).await;
                if let Ok(Some(found)) = asked {
                    return Some(found);
                }
            }
            tracing::warn!(host, server = %self.address, "the name server does not answer");
            None
        })
    }
}

/// Names that were asked for: what each stands for, and until when that is known.
type Known = HashMap<String, (Option<String>, Duration)>;

/// Looks host names up.
pub(crate) struct CnameLookup {
    resolver: Arc<dyn Resolver>,
    clock: Arc<dyn Clock>,
    /// With a dot before it.
    domain: String,
    depth: u8,
    known: Mutex<Known>,
}

/// Beside a request: the host its client asked for, and the one it was taken for.
#[derive(Debug, Clone)]
pub(crate) struct AskedHost {
    asked: String,
    taken_for: String,
}

impl AskedHost {
    /// Lets what an answer leads to be on the host its client knows.
    pub(crate) fn finish(&self, headers: &mut HeaderMap) {
        let Some(location) = text(headers, header::LOCATION.as_str()) else {
            return;
        };
        let (from, to) = (
            format!("://{}", self.taken_for),
            format!("://{}", self.asked),
        );
        if let Ok(value) = HeaderValue::from_str(&location.replacen(&from, &to, 1)) {
            headers.insert(header::LOCATION, value);
        }
    }
}

impl CnameLookup {
    pub(crate) fn new(
        config: &Config,
        storage_domain: &str,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        let server = Server {
            address: config.nameserver,
            entropy,
        };
        Self {
            resolver: Arc::new(server),
            clock,
            domain: format!(".{}", storage_domain.to_ascii_lowercase()),
            depth: config.lookup_depth,
            known: Mutex::default(),
        }
    }

    fn is_ours(&self, host: &str) -> bool {
        format!(".{host}").ends_with(&self.domain)
    }

    async fn cname(&self, host: &str) -> Option<String> {
        let now = self.clock.monotonic();
        let remembered = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(host)
            .filter(|(_, until)| now < *until)
            .map(|(target, _)| target.clone());
        if let Some(target) = remembered {
            return target;
        }
        let (target, lasts) = self.resolver.cname(host).await?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= NAMES_MAX {
            known.retain(|_, (_, until)| now < *until);
        }
        if known.len() < NAMES_MAX {
            let until = now + lasts.min(REMEMBERED_MAX);
            known.insert(host.to_owned(), (target.clone(), until));
        }
        target
    }

    /// The host of the storage domain that a host stands for.
    async fn resolve(&self, host: &str) -> Result<String, Fault> {
        let mut name = host.to_owned();
        for _ in 0..self.depth {
            match self.cname(&name).await.filter(|target| *target != name) {
                None => {
                    let words = "CNAME lookup failed to resolve to a valid domain";
                    return Err(Fault::BadRequest(words.to_owned()));
                }
                Some(target) if self.is_ours(&target) => return Ok(target),
                Some(target) => name = target,
            }
        }
        let depth = self.depth;
        Err(Fault::BadRequest(format!(
            "CNAME lookup failed after {depth} tries"
        )))
    }

    /// Puts the host a request's host stands for in its place.
    pub(crate) async fn apply(&self, request: &mut Head) -> Result<(), Fault> {
        let Some(asked) = text(&request.headers, header::HOST.as_str()) else {
            return Ok(());
        };
        let (name, port) = match asked.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (name, Some(port))
            }
            Some(_) | None => (asked, None),
        };
        let is_address = name.starts_with('[') || name.parse::<IpAddr>().is_ok();
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if is_address || name.is_empty() || name.len() > NAME_BYTES_MAX || self.is_ours(&name) {
            return Ok(());
        }
        let target = self.resolve(&name).await?;
        let taken_for = match port {
            Some(port) => format!("{target}:{port}"),
            None => target,
        };
        let asked = AskedHost {
            asked: asked.to_owned(),
            taken_for,
        };
        if let Ok(value) = HeaderValue::from_str(&asked.taken_for) {
            request.headers.insert(header::HOST, value);
            request.extensions.insert(asked);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicU64, Ordering};
    use onggi_common_units::UtcTime;
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::CNAME;

    /// A clock that a test moves.
    #[derive(Default)]
    struct Hand(AtomicU64);
    impl Clock for Hand {
        fn now(&self) -> UtcTime {
            UtcTime::from_seconds(0)
        }
        fn monotonic(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::Relaxed))
        }
    }

    /// Names that stand for the next, and how often it was asked.
    #[derive(Default)]
    struct Book(AtomicU64);
    impl Resolver for Book {
        fn cname<'a>(&'a self, host: &'a str) -> Asked<'a> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let target = match host {
                "www.customer.test" => Some("c.AUTH_a.example.com"),
                "far.test" => Some("www.customer.test"),
                "loop.test" => Some("loop.test"),
                "broken.test" => return Box::pin(async { None }),
                _ => None,
            };
            let found = (target.map(str::to_owned), Duration::from_secs(10));
            Box::pin(async { Some(found) })
        }
    }

    fn lookup(depth: u8) -> (CnameLookup, Arc<Book>, Arc<Hand>) {
        let (book, hand) = (Arc::new(Book::default()), Arc::new(Hand::default()));
        let lookup = CnameLookup {
            resolver: Arc::clone(&book) as Arc<dyn Resolver>,
            clock: Arc::clone(&hand) as Arc<dyn Clock>,
            domain: ".example.com".to_owned(),
            depth,
            known: Mutex::default(),
        };
        (lookup, book, hand)
    }

    async fn host(lookup: &CnameLookup, asked: &str) -> Result<String, Fault> {
        let request = http::Request::get("/o").header("host", asked);
        let mut head = request.body(()).unwrap().into_parts().0;
        lookup.apply(&mut head).await?;
        Ok(text(&head.headers, "host").unwrap().to_owned())
    }

    #[tokio::test]
    async fn a_host_becomes_what_it_stands_for_and_keeps_its_port() {
        let (lookup, _, _) = lookup(1);
        let to = async |asked: &str| host(&lookup, asked).await.ok();
        assert_eq!(
            to("WWW.customer.test:8080").await.as_deref(),
            Some("c.AUTH_a.example.com:8080")
        );
        for same in [
            "example.com",
            "a.example.com:80",
            "127.0.0.1:80",
            "[::1]:80",
        ] {
            assert_eq!(to(same).await.as_deref(), Some(same));
        }
        for none in [
            "other.test",
            "loop.test",
            "broken.test",
            "far.test",
            "notexample.com",
        ] {
            assert_eq!(to(none).await, None, "{none}");
        }
    }

    #[tokio::test]
    async fn names_are_followed_as_deep_as_allowed_and_remembered_as_long() {
        let (lookup, book, hand) = lookup(2);
        for _ in 0..3 {
            assert!(host(&lookup, "far.test").await.is_ok());
        }
        assert_eq!(book.0.load(Ordering::Relaxed), 2);
        hand.0.store(11, Ordering::Relaxed);
        assert!(host(&lookup, "far.test").await.is_ok());
        assert_eq!(book.0.load(Ordering::Relaxed), 4);
    }

    fn reply(id: u16, host: &str, target: &str) -> Vec<u8> {
        let mut packet = Packet::new_reply(id);
        let name = Name::new(host).unwrap();
        let question = Question::new(name.clone(), TYPE::CNAME.into(), CLASS::IN.into(), false);
        packet.questions.push(question);
        let target = RData::CNAME(CNAME(Name::new(target).unwrap()));
        let record = ResourceRecord::new(name, CLASS::IN, 7, target);
        packet.answers.push(record);
        packet.build_bytes_vec().unwrap()
    }

    #[test]
    fn only_an_answer_to_the_question_is_one() {
        let bytes = reply(7, "a.test", "B.example.com");
        let found = answer(7, "a.test", &bytes);
        let expected = (Some("b.example.com".to_owned()), Duration::from_secs(7));
        assert_eq!(found, Some(expected));
        assert_eq!(answer(8, "a.test", &bytes), None);
        assert_eq!(answer(7, "other.test", &bytes), None);
        assert_eq!(answer(7, "a.test", &question(7, "a.test").unwrap()), None);
        for end in 0..bytes.len() {
            assert_eq!(answer(7, "a.test", &bytes[..end]), None);
        }
    }

    #[tokio::test]
    async fn a_server_is_asked_over_udp_and_forgeries_are_left_out() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = Server {
            address: socket.local_addr().unwrap(),
            entropy: Arc::new(onggi_common_host::SystemEntropy),
        };
        let answering = tokio::spawn(async move {
            let mut bytes = [0; 512];
            let (length, from) = socket.recv_from(&mut bytes).await.unwrap();
            let id = Packet::parse(&bytes[..length]).unwrap().id();
            let forged = reply(id.wrapping_add(1), "a.test", "evil.example.com");
            socket.send_to(&forged, from).await.unwrap();
            socket.send_to(b"nonsense", from).await.unwrap();
            let right = reply(id, "a.test", "b.example.com");
            socket.send_to(&right, from).await.unwrap();
        });
        let (target, _) = server.cname("a.test").await.unwrap();
        assert_eq!(target.as_deref(), Some("b.example.com"));
        answering.await.unwrap();
    }
}
