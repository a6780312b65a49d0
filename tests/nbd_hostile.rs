//! The NBD client against a server that lies, breaks off, stalls or sends garbage: each is an error, soon, and no more.

mod common;
#[path = "common/nbd.rs"]
mod servers;

use guestctl::block::nbd::{NbdDevice, Options};
use guestctl::block::{BlockDevice, ExtentKind};
use guestctl::error::Error;
use servers::{CACHE, FLUSH, Fake, HAS_FLAGS, MULTI_CONN, Peer, READ_ONLY, Request, Style, option_reply};
use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

const SIZE: u64 = 1 << 30;
const FLAGS: u16 = HAS_FLAGS | READ_ONLY | MULTI_CONN | CACHE;
const OFFSET: u64 = 4096;
const LEN: usize = 65536;

/// What no case may take longer than.
const SOON: Duration = Duration::from_secs(5);

fn impatient() -> Options {
    Options {
        connections: 2,
        connect_timeout: Duration::from_millis(600),
        reply_timeout: Duration::from_millis(300),
        reconnect_time: Duration::from_millis(100),
    }
}

fn open(fake: &Fake) -> NbdDevice {
    NbdDevice::open(&fake.uri(), false, &impatient()).expect("the handshake is honest")
}

/// Opens a device whose server answers the first request of each connection by `answer`; returns how a call fails.
fn failure(
    style: Style,
    answer: impl Fn(&mut Peer, Request) -> io::Result<()> + Send + Sync + 'static,
    call: impl Fn(&NbdDevice) -> guestctl::Result<()>,
) -> Error {
    let fake = Fake::new(style, move |peer| {
        peer.handshake(SIZE, FLAGS, None)?;
        let request = peer.request()?;
        answer(peer, request)?;
        // What follows is read, so that a client that waits is not told by a closed connection.
        let _ = peer.read(1 << 20);
        Ok(())
    });
    let device = open(&fake);
    let began = Instant::now();
    let error = call(&device).expect_err("the server lies");
    assert!(began.elapsed() < SOON, "{:?}: {error}", began.elapsed());
    assert!(matches!(error.root(), Error::Io { .. }), "{error}");
    drop(device);
    error
}

fn read(device: &NbdDevice) -> guestctl::Result<()> {
    device.read_at(&mut vec![0; LEN], OFFSET)
}

fn map(device: &NbdDevice) -> guestctl::Result<()> {
    device.map(OFFSET, LEN as u64).map(|_| ())
}

type Answer = Box<dyn Fn(&mut Peer, Request) -> io::Result<()> + Send + Sync>;

fn case(
    text: &'static str,
    answer: impl Fn(&mut Peer, Request) -> io::Result<()> + Send + Sync + 'static,
) -> (&'static str, Answer) {
    (text, Box::new(answer))
}

#[test]
fn a_reply_in_chunks_that_lies_is_refused() {
    for style in [Style::Structured, Style::Extended] {
        let cases = [
            case("request that there is not", |peer, request| peer.data(1, request.cookie + 1, OFFSET, &[1; LEN])),
            case("does not fit", |peer, request| peer.chunk(1, 1, request.cookie, 0x7fff_ffff, &OFFSET.to_be_bytes())),
            case("does not fit", |peer, request| peer.data(1, request.cookie, OFFSET, &[1; LEN + 1])),
            case("does not fit", |peer, request| peer.data(1, request.cookie, OFFSET - 1, &[1; LEN])),
            case("does not fit", |peer, request| peer.data(1, request.cookie, u64::MAX, &[1; LEN])),
            case("does not fit", |peer, request| peer.data(1, request.cookie, OFFSET, &[])),
            case("does not fit", |peer, request| peer.chunk(1, 1, request.cookie, 3, &[0; 3])),
            case("leaves bytes out", |peer, request| peer.data(1, request.cookie, OFFSET, &[1; LEN - 1])),
            case("leaves bytes out", |peer, request| peer.chunk(1, 0, request.cookie, 0, &[])),
            case("leaves bytes out", |peer, request| {
                peer.data(0, request.cookie, OFFSET, &[1; 512])?;
                peer.data(1, request.cookie, OFFSET + 513, &[1; LEN - 513])
            }),
            case("bytes twice", |peer, request| {
                peer.data(0, request.cookie, OFFSET, &[1; 512])?;
                peer.data(1, request.cookie, OFFSET + 511, &[1; LEN - 511])
            }),
            case("bytes twice", |peer, request| {
                peer.data(0, request.cookie, OFFSET, &[1; LEN])?;
                let hole = [&OFFSET.to_be_bytes()[..], &1_u32.to_be_bytes()].concat();
                peer.chunk(1, 2, request.cookie, 12, &hole)
            }),
            case("does not fit", |peer, request| {
                let hole = [&OFFSET.to_be_bytes()[..], &0_u32.to_be_bytes()].concat();
                peer.chunk(1, 2, request.cookie, 12, &hole)
            }),
            case("does not fit", |peer, request| {
                let hole = [&OFFSET.to_be_bytes()[..], &u32::MAX.to_be_bytes()].concat();
                peer.chunk(1, 2, request.cookie, 12, &hole)
            }),
            case("does not fit", |peer, request| peer.chunk(1, 2, request.cookie, 13, &[0; 13])),
            case("does not fit", |peer, request| peer.chunk(0, 0, request.cookie, 0, &[])),
            case("does not fit", |peer, request| peer.chunk(1, 0, request.cookie, 4, &[0; 4])),
            case("does not fit", |peer, request| peer.chunk(1, 77, request.cookie, 4, &[0; 4])),
            case("does not fit", |peer, request| peer.chunk(1, 5, request.cookie, 12, &[0; 12])),
            case("does not fit", |peer, request| peer.chunk(1, 0x8001, request.cookie, 5, &[0; 5])),
            case("does not fit", |peer, request| peer.chunk(1, 0x8001, request.cookie, 1 << 30, &[1; 64])),
            case("does not fit", |peer, request| peer.chunk(1, 0x8001, request.cookie, 8, b"\0\0\0\x05\0\x03ab")),
            case("without error", |peer, request| peer.chunk(1, 0x8001, request.cookie, 6, &[0; 6])),
            case("too many chunks", |peer, request| {
                for byte in 0..LEN as u64 {
                    peer.data(0, request.cookie, OFFSET + byte, &[1])?;
                }
                Ok(())
            }),
            case("begins with", |peer, _| peer.send(&[0x77; 4096])),
            case("begins with", |peer, _| peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n          ")),
            case("in time", |_, _| Ok(())),
            case("in time", |peer, request| peer.chunk(1, 1, request.cookie, LEN as u64 + 8, &OFFSET.to_be_bytes())),
        ];
        for (number, (text, answer)) in cases.into_iter().enumerate() {
            let error = failure(style, answer, read).to_string();
            assert!(error.contains(text), "case {number}: {error}");
        }
    }
}

#[test]
fn a_reply_of_the_wrong_kind_is_refused() {
    let simple_for_chunks = |peer: &mut Peer, request: Request| {
        peer.simple(0, request.cookie)?;
        peer.send(&[1; LEN])
    };
    let error = failure(Style::Structured, simple_for_chunks, read).to_string();
    assert!(error.contains("simple reply"), "{error}");
    let error = failure(Style::Extended, simple_for_chunks, read).to_string();
    assert!(error.contains("begins with"), "{error}");
    let chunks_for_simple = |peer: &mut Peer, request: Request| {
        peer.style = Style::Structured;
        peer.data(1, request.cookie, OFFSET, &[1; LEN])
    };
    let error = failure(Style::Simple, chunks_for_simple, read).to_string();
    assert!(error.contains("begins with"), "{error}");
    let error = failure(Style::Simple, |peer, request| peer.simple(0, request.cookie ^ 1), read).to_string();
    assert!(error.contains("request that there is not"), "{error}");
}

#[test]
fn a_reply_that_breaks_off_is_an_error_after_a_few_attempts() {
    for style in [Style::Simple, Style::Structured, Style::Extended] {
        let broken = move |peer: &mut Peer, request: Request| {
            if style == Style::Simple {
                peer.simple(0, request.cookie)?;
            } else {
                peer.chunk(1, 1, request.cookie, LEN as u64 + 8, &OFFSET.to_be_bytes())?;
            }
            peer.send(&[1; LEN / 2])?;
            peer.stream.shutdown(std::net::Shutdown::Both)
        };
        let error = failure(style, broken, read).to_string();
        assert!(error.contains("lost"), "{error}");
    }
}

#[test]
fn a_server_that_trickles_is_given_up() {
    let trickle = |peer: &mut Peer, request: Request| {
        peer.simple(0, request.cookie)?;
        loop {
            peer.send(&[1])?;
            thread::sleep(Duration::from_millis(20));
        }
    };
    let error = failure(Style::Simple, trickle, read).to_string();
    assert!(error.contains("in time"), "{error}");
}

#[test]
fn a_block_status_that_lies_is_refused() {
    let states = |list: &[(u32, u32)]| {
        let mut bytes = 7_u32.to_be_bytes().to_vec();
        for (len, flags) in list {
            bytes.extend_from_slice(&len.to_be_bytes());
            bytes.extend_from_slice(&flags.to_be_bytes());
        }
        bytes
    };
    let status = move |kind: u16, payload: Vec<u8>| {
        move |peer: &mut Peer, request: Request| peer.chunk(1, kind, request.cookie, payload.len() as u64, &payload)
    };
    let mut other = states(&[(4096, 0)]);
    other[3] = 8;
    for (text, payload) in [
        ("not asked for", other),
        ("wrong length", states(&[])),
        ("wrong length", states(&[(4096, 0)])[..10].to_vec()),
        ("senseless", states(&[(4096, 0), (0, 3)])),
    ] {
        let error = failure(Style::Structured, status(5, payload), map).to_string();
        assert!(error.contains(text), "{error}");
    }
    let error = failure(Style::Structured, |peer, request| peer.chunk(1, 5, request.cookie, u32::MAX.into(), &[]), map);
    assert!(error.to_string().contains("wrong length"), "{error}");
    let error = failure(Style::Structured, |peer, request| peer.chunk(1, 0, request.cookie, 0, &[]), map);
    assert!(error.to_string().contains("holds none"), "{error}");
    let error = failure(Style::Structured, |peer, request| peer.simple(0, request.cookie), map);
    assert!(error.to_string().contains("simple reply"), "{error}");
    let payload = states(&[(4096, 0)]);
    let twice = move |peer: &mut Peer, request: Request| {
        peer.chunk(0, 5, request.cookie, payload.len() as u64, &payload)?;
        peer.chunk(1, 5, request.cookie, payload.len() as u64, &payload)
    };
    let error = failure(Style::Structured, twice, map);
    assert!(error.to_string().contains("not asked for"), "{error}");

    let extended = |count: u32, list: &[(u64, u64)]| {
        let mut bytes = [7_u32.to_be_bytes(), count.to_be_bytes()].concat();
        for (len, flags) in list {
            bytes.extend_from_slice(&len.to_be_bytes());
            bytes.extend_from_slice(&flags.to_be_bytes());
        }
        bytes
    };
    for (text, payload) in [
        ("wrong count", extended(2, &[(4096, 0)])),
        ("senseless", extended(2, &[(4096, 0), (u64::MAX - 5000, 0)])),
        ("wrong length", extended(0, &[])),
    ] {
        let error = failure(Style::Extended, status(6, payload), map).to_string();
        assert!(error.contains(text), "{error}");
    }
    let error = failure(Style::Extended, |peer, request| peer.chunk(1, 6, request.cookie, u64::MAX, &[]), map);
    assert!(error.to_string().contains("wrong length"), "{error}");
}

#[test]
fn a_block_status_past_the_end_is_cut() {
    let fake = Fake::new(Style::Structured, |peer| {
        peer.handshake(SIZE, FLAGS, None)?;
        loop {
            let request = peer.request()?;
            let payload = [&7_u32.to_be_bytes()[..], &u32::MAX.to_be_bytes(), &3_u32.to_be_bytes()].concat();
            peer.chunk(1, 5, request.cookie, 12, &payload)?;
        }
    });
    let device = open(&fake);
    let extent = device.map(OFFSET, 8192).expect("maps");
    assert_eq!((extent.end, extent.kind), (OFFSET + 8192, ExtentKind::Hole));
    assert_eq!(device.map(SIZE - 5, 5).expect("maps").end, SIZE);
}

/// Sends the greeting of the fixed newstyle and reads the client's flags and its first option.
fn begin(peer: &mut Peer) -> io::Result<u32> {
    peer.send(b"NBDMAGICIHAVEOPT\x00\x03")?;
    peer.read(4)?;
    option(peer)
}

fn option(peer: &mut Peer) -> io::Result<u32> {
    let head = peer.read(16)?;
    peer.read(servers::be32(&head, 12) as usize)?;
    Ok(servers::be32(&head, 8))
}

/// Refuses options until the client says `GO`.
fn until_go(peer: &mut Peer) -> io::Result<()> {
    let mut number = begin(peer)?;
    while number != 7 {
        peer.send(&option_reply(number, (1 << 31) | 1, &[]))?;
        number = option(peer)?;
    }
    Ok(())
}

fn export(size: u64, flags: u16) -> Vec<u8> {
    option_reply(7, 3, &[&[0, 0], &size.to_be_bytes()[..], &flags.to_be_bytes()].concat())
}

fn blocks(min: u32, preferred: u32, max: u32) -> Vec<u8> {
    let sizes = [min, preferred, max].map(u32::to_be_bytes).concat();
    [export(SIZE, FLAGS), option_reply(7, 3, &[&[0, 3], sizes.as_slice()].concat()), option_reply(7, 1, &[])].concat()
}

type Greeter = Box<dyn Fn(&mut Peer) -> io::Result<()> + Send + Sync>;

fn greeter(
    text: &'static str,
    greet: impl Fn(&mut Peer) -> io::Result<()> + Send + Sync + 'static,
) -> (&'static str, Greeter) {
    (text, Box::new(greet))
}

#[test]
fn a_handshake_that_lies_is_refused() {
    let go = |text, bytes: Vec<u8>| {
        greeter(text, move |peer: &mut Peer| {
            until_go(peer)?;
            peer.send(&bytes)
        })
    };
    let first = |text, bytes: Vec<u8>| {
        greeter(text, move |peer: &mut Peer| {
            begin(peer)?;
            peer.send(&bytes)
        })
    };
    let mut long = option_reply(11, 1, &[]);
    long[16..].fill(0xff);
    let cases = [
        greeter("no NBD server", |peer| peer.send(b"SSH-2.0-OpenSSH_9.2p1 Debian-2")),
        greeter("greeting holds", |peer| peer.send(b"NBDMAGICNONSENSE\0\0")),
        greeter("closed the connection", |peer| peer.send(b"NBDMA")),
        greeter("in time", |_| Ok(())),
        greeter("in time", |peer| {
            for byte in b"NBDMAGICIHAVEOPT" {
                thread::sleep(Duration::from_millis(100));
                peer.send(&[*byte])?;
            }
            Ok(())
        }),
        first("wrong number", vec![0; 20]),
        first("answers option 12", option_reply(12, 1, &[])),
        first("an answer of", long),
        first("by 99", option_reply(11, 99, &[])),
        go("no size", option_reply(7, 1, &[])),
        go("bytes", [export(u64::MAX, FLAGS), option_reply(7, 1, &[])].concat()),
        go("has the flags", [export(SIZE, 2), option_reply(7, 1, &[])].concat()),
        go("without type", option_reply(7, 3, &[0])),
        go("information 0 of 3", option_reply(7, 3, &[0, 0, 0])),
        go("information 3 of 2", option_reply(7, 3, &[0, 3])),
        go("by 2", option_reply(7, 2, &[])),
        go("block sizes", blocks(0, 4096, 65536)),
        go("block sizes", blocks(3, 4096, 65536)),
        go("block sizes", blocks(512, 256, 65536)),
        go("block sizes", blocks(1 << 31, 1 << 31, u32::MAX)),
        go("block sizes", blocks(4096, 4096, 512)),
        go("no export", option_reply(7, (1 << 31) | 6, b"no \x1b[2J\nsuch")),
        go("unknown error", option_reply(7, 0xffff_ffff, &[0xff; 60000])),
        greeter("without end", |peer| {
            until_go(peer)?;
            loop {
                peer.send(&option_reply(7, 3, &[0, 99]))?;
            }
        }),
        greeter("without end", |peer| {
            let mut number = begin(peer)?;
            while number != 10 {
                peer.send(&option_reply(number, 1, &[]))?;
                number = option(peer)?;
            }
            loop {
                peer.send(&option_reply(10, 4, b"\0\0\0\x01other:context"))?;
            }
        }),
    ];
    for (number, (text, greet)) in cases.into_iter().enumerate() {
        let silent = text == "in time";
        let fake = Fake::new(Style::Simple, move |peer| {
            greet(peer)?;
            if silent {
                let _ = peer.read(1 << 20);
            }
            Ok(())
        });
        let began = Instant::now();
        let error = NbdDevice::open(&fake.uri(), false, &impatient()).err().expect("refused");
        assert!(began.elapsed() < SOON, "case {number}: {:?}", began.elapsed());
        let error = error.to_string();
        assert!(error.contains(text), "case {number}: {error}");
        assert!(!error.contains(char::is_control), "case {number}: {error}");
    }
}

/// A small generator of numbers, the same at each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn garbage_is_never_more_than_an_error() {
    let began = Instant::now();
    for seed in 1..120_u64 {
        let style = [Style::Simple, Style::Structured, Style::Extended][(seed % 3) as usize];
        let fake = Fake::new(style, move |peer| {
            peer.handshake(SIZE, FLAGS, None)?;
            let mut random = Random(seed * 7_919 + peer.number as u64);
            for _ in 0..8 {
                let request = peer.request()?;
                // A header that may be right, and what may be its payload.
                let len = [0, 6, 8, 12, 20, 4104, LEN as u64 + 8, random.next() >> 20][(random.next() % 8) as usize];
                let kind = [0, 1, 2, 5, 6, 0x8001, 0x8002, 3][(random.next() % 8) as usize];
                let mut payload: Vec<u8> = (0..len.min(100_000)).map(|_| random.next() as u8).collect();
                if payload.len() >= 8 && !random.next().is_multiple_of(4) {
                    payload[..8].copy_from_slice(&(request.offset + random.next() % 64).to_be_bytes());
                }
                peer.chunk((random.next() & 1) as u16, kind, request.cookie, len, &payload)?;
            }
            Ok(())
        });
        let Ok(device) = NbdDevice::open(&fake.uri(), false, &impatient()) else { continue };
        thread::scope(|scope| {
            for _ in 0..3 {
                let device = &device;
                scope.spawn(move || {
                    let _ = read(device);
                    let _ = map(device);
                    device.prefetch(0, 1 << 20);
                });
            }
        });
        drop(device);
        assert!(began.elapsed() < Duration::from_secs(100), "seed {seed}");
        if began.elapsed() > Duration::from_secs(15) {
            break;
        }
    }
}

/// What the odd but honest server holds at a place.
fn byte_at(place: u64) -> u8 {
    if (place >> 12).is_multiple_of(3) { 0 } else { (place ^ (place >> 8)) as u8 }
}

/// Answers some requests at once, in any order, in pieces that mix.
fn answer_mixed(peer: &mut Peer, requests: &[Request], random: &mut Random) -> io::Result<()> {
    let mut pieces = Vec::new();
    for request in requests {
        if request.command != 0 {
            peer.chunk(1, 0, request.cookie, 0, &[])?;
            continue;
        }
        let mut at = request.offset;
        while at < request.offset + request.len {
            let end = (request.offset + request.len).min((at / 4096 + 1) * 4096);
            pieces.push((random.next(), request.cookie, at, end));
            at = end;
        }
    }
    pieces.sort_unstable();
    for (_, cookie, at, end) in pieces {
        let bytes: Vec<u8> = (at..end).map(byte_at).collect();
        if bytes.iter().all(|&byte| byte == 0) {
            let hole = [&at.to_be_bytes()[..], &((end - at) as u32).to_be_bytes()].concat();
            peer.chunk(0, 2, cookie, 12, &hole)?;
        } else {
            peer.data(0, cookie, at, &bytes)?;
        }
    }
    for request in requests.iter().filter(|request| request.command == 0) {
        peer.chunk(1, 0, request.cookie, 0, &[])?;
    }
    peer.stream.flush()
}

#[test]
fn replies_that_mix_find_their_callers() {
    for (style, flags) in [(Style::Structured, HAS_FLAGS | CACHE), (Style::Extended, HAS_FLAGS | MULTI_CONN)] {
        let fake = Fake::new(style, move |peer| {
            peer.handshake(SIZE, flags, None)?;
            let mut random = Random(99);
            loop {
                let mut requests = vec![peer.request()?];
                // Whatever else has come is answered with it.
                peer.stream.set_read_timeout(Some(Duration::from_millis(2)))?;
                while requests.len() < 12 {
                    let Ok(request) = peer.request() else { break };
                    requests.push(request);
                }
                peer.stream.set_read_timeout(None)?;
                answer_mixed(peer, &requests, &mut random)?;
            }
        });
        let patient = Options { reply_timeout: Duration::from_secs(20), ..impatient() };
        let device = NbdDevice::open(&fake.uri(), false, &patient).expect("opens");
        thread::scope(|scope| {
            for seed in 1..9 {
                let device = &device;
                scope.spawn(move || {
                    let mut random = Random(seed * 6_700_417);
                    let mut buf = vec![0; 1_400_000];
                    for _ in 0..12 {
                        let len = 1 + (random.next() % [100, 5000, 100_000, 1_400_000][(random.next() % 4) as usize]);
                        let offset = random.next() % (SIZE - len);
                        device.prefetch(offset, len);
                        device.read_at(&mut buf[..len as usize], offset).expect("reads");
                        for (place, &byte) in (offset..).zip(&buf[..len as usize]) {
                            assert_eq!(byte, byte_at(place), "at {place}");
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn a_server_that_takes_one_connection_serves_many_callers() {
    // It says that it takes several, as some do, and then hangs up or says nothing.
    for hangs_up in [true, false] {
        let fake = Fake::new(Style::Structured, move |peer| {
            if peer.number > 0 {
                if !hangs_up {
                    let _ = peer.read(1);
                }
                return Ok(());
            }
            peer.handshake(SIZE, FLAGS | FLUSH, None)?;
            loop {
                let request = peer.request()?;
                thread::sleep(Duration::from_millis(2));
                peer.data(1, request.cookie, request.offset, &vec![5; request.len as usize])?;
            }
        });
        let patient = Options { reply_timeout: Duration::from_secs(20), ..impatient() };
        let device = NbdDevice::open(&fake.uri(), false, &patient).expect("opens");
        thread::scope(|scope| {
            for number in 0..6 {
                let device = &device;
                scope.spawn(move || {
                    for turn in 0..20 {
                        let mut buf = [0; 700];
                        device.read_at(&mut buf, number * 1000 + turn * 100).expect("reads");
                        assert_eq!(buf, [5; 700]);
                    }
                });
            }
        });
        assert!(fake.connections.load(Ordering::Acquire) > 1);
    }
}

#[test]
fn errors_in_chunks_carry_the_servers_words() {
    let refuse = |peer: &mut Peer, request: Request| {
        let payload = [&28_u32.to_be_bytes()[..], &8_u16.to_be_bytes(), b"no\nspace"].concat();
        peer.chunk(1, 0x8001, request.cookie, payload.len() as u64, &payload)
    };
    let error = failure(Style::Structured, refuse, read);
    assert_eq!(error.errno(), libc::ENOSPC);
    assert!(error.to_string().contains("\"no space\""), "{error}");
    // The place of an error follows its message.
    let refuse = |peer: &mut Peer, request: Request| {
        peer.data(0, request.cookie, OFFSET, &[1; 512])?;
        let payload = [&5_u32.to_be_bytes()[..], &3_u16.to_be_bytes(), b"bad", &OFFSET.to_be_bytes()].concat();
        peer.chunk(1, 0x8002, request.cookie, payload.len() as u64, &payload)
    };
    let error = failure(Style::Extended, refuse, read);
    assert!(error.errno() == libc::EIO && error.to_string().contains("\"bad\""), "{error}");
}

#[test]
fn a_read_whose_connection_went_silent_goes_over_another_but_a_write_does_not() {
    let fake = Fake::new(Style::Simple, |peer| {
        peer.handshake(SIZE, HAS_FLAGS | FLUSH, None)?;
        loop {
            let request = peer.request()?;
            if request.command == 1 {
                peer.read(request.len as usize)?;
            }
            if peer.number == 0 || request.command == 1 {
                continue;
            }
            peer.simple(0, request.cookie)?;
            if request.command == 0 {
                peer.send(&vec![9; request.len as usize])?;
            }
        }
    });
    let device = NbdDevice::open(&fake.uri(), true, &impatient()).expect("opens");
    let mut buf = [0; 512];
    device.read_at(&mut buf, 0).expect("the second connection answers");
    assert_eq!(buf, [9; 512]);
    let before = fake.connections.load(Ordering::Acquire);
    let error = device.write_at(&buf, 0).expect_err("no answer");
    assert!(error.to_string().contains("in time"), "{error}");
    assert_eq!(fake.connections.load(Ordering::Acquire), before, "it was not sent again");
    device.flush().expect_err("the write may be lost");
}
