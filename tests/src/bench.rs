//! `lab-tests bench`: how long reading 10,000 filters takes: us, `tc -s filter show`, and `dpctl/dump-flows`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use lab_tests::harness::{Failure, Lab, Outcome, Ovs, output, run, wait_until};
use netlink_wire::message::Control;
use netlink_wire::{Ifindex, Messages, Seq};
use ovs_offloadd::io::netlink::{DATAGRAM_BYTES_MAX, Protocol, Received, Socket};
use tc_flower::request::{self, Detail};
use tc_flower::{FilterCounters, Location, TcEvent};

/// Where its files are.
const DIR: &str = "/run/bench";
/// Filters that are read.
const FILTERS: usize = 10_000;
/// Readings of each kind, of which the faster is told.
const READINGS: usize = 2;
/// The longest ovs-vswitchd may take to take all flows.
const MADE_WITHIN: Duration = Duration::from_secs(600);

/// Measures, and prints.
pub(crate) fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("lab-tests bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Outcome {
    let lab = Lab::at(DIR.as_ref())?;
    let ovs = Ovs::for_steering(&lab)?;
    run("ip", &["link", "add", "bench0", "type", "veth", "peer", "name", "bench1"])?;
    for device in ["bench0", "bench1"] {
        run("ip", &["link", "set", device, "up"])?;
    }
    ovs.vsctl(&["add-br", "br0", "--", "add-port", "br0", "bench0", "--", "add-port", "br0", "bench1"])?;
    let index: u32 = run("cat", &["/sys/class/net/bench0/ifindex"])?.trim().parse()?;
    // Nothing revalidates them away while they are read.
    ovs.appctl(&["revalidator/pause"])?;
    make_filters()?;
    let location = Location::ingress(Ifindex(index));
    println!("{:<44} {:>8} {:>12} {:>10}", "reading", "filters", "time", "of tc's");
    let tc =
        fastest(|| lines(&run("tc", &["-s", "filter", "show", "dev", "bench0", "ingress"])?, "handle 0x"))?;
    let tell = |name: &str, (count, took): (usize, Duration)| {
        let ratio = took.as_secs_f64() / tc.1.as_secs_f64();
        println!("{name:<44} {count:>8} {:>9.1} ms {:>9.2}x", took.as_secs_f64() * 1e3, ratio);
    };
    tell("tc -s filter show", tc);
    tell("ovs-offloadd, full dump decoded", fastest(|| dump(location, Detail::Full))?);
    tell("ovs-offloadd, terse dump decoded (each epoch)", fastest(|| dump(location, Detail::Terse))?);
    // Its main thread may take longer than the other tests wait for it.
    let dump_flows =
        || output(ovs.command("ovs-appctl").args(["--timeout=300", "dpctl/dump-flows", "-m", "type=tc"]));
    tell("ovs-appctl dpctl/dump-flows -m type=tc", fastest(|| lines(&dump_flows()?, "ufid:"))?);
    Ok(())
}

/// Makes filters as Open vSwitch does: keys of Ethernet, IPv4 and UDP, a cookie, an output.
///
/// By `tc -batch` and not by packets: ten thousand upcalls take an emulated guest minutes. Open vSwitch's dump reads all
/// that hangs on its ports.
fn make_filters() -> Outcome {
    let mut batch = String::new();
    for n in 0..FILTERS {
        batch.push_str(&format!(
            "filter add dev bench0 ingress protocol ip prio 2 handle {handle} flower skip_hw \
             dst_mac 02:00:00:00:00:02 src_mac 02:00:00:00:00:01 ip_proto udp ip_flags nofrag \
             src_ip 10.1.{}.{} dst_port 7000 src_port {} \
             action mirred egress redirect dev bench1 cookie {:032x}\n",
            n / 250,
            n % 250 + 1,
            20_000 + n % 40_000,
            (0x1234_5678_u128 << 96) | (n as u128 + 1),
            handle = n + 1,
        ));
    }
    let file = format!("{DIR}/filters.batch");
    std::fs::write(&file, batch)?;
    wait_until("the port has its qdisc", MADE_WITHIN, || {
        run("tc", &["qdisc", "show", "dev", "bench0"])
            .map(|text| text.contains("ingress") || text.contains("clsact"))
    })?;
    run("tc", &["-batch", &file]).map(drop)
}

fn fastest(reading: impl Fn() -> Outcome<usize>) -> Outcome<(usize, Duration)> {
    let mut best: Option<(usize, Duration)> = None;
    for _ in 0..READINGS {
        let begin = Instant::now();
        let count = reading()?;
        let took = begin.elapsed();
        lab_tests::ensure!(count >= FILTERS, "{count} of {FILTERS} filters were read");
        if best.is_none_or(|(_, before)| took < before) {
            best = Some((count, took));
        }
    }
    best.ok_or_else(|| Failure::new("nothing was read"))
}

fn lines(text: &str, word: &str) -> Outcome<usize> {
    Ok(text.lines().filter(|line| line.contains(word)).count())
}

/// A dump by the daemon's own socket and decoders: filters read.
fn dump(location: Location, detail: Detail) -> Outcome<usize> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = Socket::open(Protocol::Route, 1 << 20)?;
        socket.send(&request::dump(location, None, detail, Seq(1)))?;
        let (mut buffer, mut count) = (vec![0; DATAGRAM_BYTES_MAX], 0);
        loop {
            let Received::Bytes(length) = socket.receive(&mut buffer).await? else {
                return Err(Failure::new("the dump overran its socket"));
            };
            for message in Messages::new(&buffer[..length]) {
                let message = message?;
                if matches!(message.control(), Ok(Some(Control::Done(_)))) {
                    return Ok(count);
                }
                count += match detail {
                    Detail::Terse => usize::from(FilterCounters::decode(&message)?.is_some()),
                    Detail::Full => usize::from(matches!(TcEvent::decode(&message)?, TcEvent::Filter(_))),
                };
            }
        }
    })
}
