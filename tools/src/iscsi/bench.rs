//! `corral iscsi bench`: what a unit does for this machine, by rate, latency and processor time.
//!
//! So many requests are kept in flight; the next begins when one ends. The processor time is this whole process's:
//! the initiator's own share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use block_core::{BlockDevice, BlockError, ByteLen, ByteOffset, Durability, IoFuture};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use iscsi_target_initiator::IscsiDevice;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::OwnArguments;

/// How to measure.
#[derive(Args, Debug)]
pub struct BenchArguments {
    /// iscsi://[user%secret@]host[:port]/target-iqn/lun
    #[arg(value_name = "URL")]
    pub url: String,
    /// What to do; the two that write destroy what is on the unit
    #[arg(value_enum, default_value = "randread")]
    pub pattern: Pattern,
    /// Requests in flight
    #[arg(short = 'd', long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub depth: u16,
    /// Bytes of one request, with K or M behind it
    #[arg(short = 'b', long, value_name = "BYTES", default_value = "4K")]
    pub block: String,
    /// How long
    #[arg(short = 's', long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// Needed for write and randwrite: overwrites the unit
    #[arg(long)]
    pub destroy_data: bool,
    #[command(flatten)]
    pub own: OwnArguments,
    /// As one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Where and which way requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pattern {
    Read,
    Write,
    Randread,
    Randwrite,
}

impl Pattern {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Randread => "randread",
            Self::Randwrite => "randwrite",
        }
    }

    fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Randwrite)
    }

    fn is_random(self) -> bool {
        matches!(self, Self::Randread | Self::Randwrite)
    }
}

/// Checked arguments.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pattern: Pattern,
    depth: usize,
    block: u64,
    time: Duration,
}

impl BenchArguments {
    /// Checks what needs no unit.
    pub fn plan(&self) -> Result<Plan, String> {
        if self.pattern.writes() && !self.destroy_data {
            let name = self.pattern.name();
            return Err(format!("{name} overwrites what is on the unit; say --destroy-data if that is meant"));
        }
        let (depth, time) = (usize::from(self.depth), Duration::from_secs(self.seconds));
        Ok(Plan { pattern: self.pattern, depth, block: parse_block(&self.block)?, time })
    }
}

fn parse_block(text: &str) -> Result<u64, String> {
    let bad = || format!("'{text}' is not a block size: 512 to 64M, with K or M behind it for 1024 or 1048576 bytes");
    let (digits, factor) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1 << 10),
        None => text.strip_suffix(['m', 'M']).map_or((text, 1), |digits| (digits, 1 << 20)),
    };
    let size = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(bad)?;
    if (512..=64 << 20).contains(&size) { Ok(size) } else { Err(bad()) }
}

/// What came out.
#[derive(Debug)]
pub struct Measured {
    plan: Plan,
    requests: u64,
    took: Duration,
    latencies: Histogram,
    /// Of this process, in user and kernel mode.
    processor: Duration,
}

/// Runs the plan. The first error ends it.
#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
pub async fn measure(unit: Arc<IscsiDevice>, plan: &Plan) -> Result<Measured, String> {
    let geometry = unit.geometry();
    let places = geometry.size().0 / plan.block;
    if places == 0 || !plan.block.is_multiple_of(u64::from(geometry.sector)) {
        let (block, sector, size) = (plan.block, geometry.sector, geometry.size());
        return Err(format!("requests of {block} bytes do not fit a unit of {size} with blocks of {sector} bytes"));
    }
    let mut work = Work { plan: *plan, places, random: SEED, sequence: 0, content: content(plan.block) };
    let (begin, processor_before) = (Instant::now(), processor_time());
    let mut latencies = Histogram::default();
    let mut requests = 0;
    let mut flying = JoinSet::new();
    let mut start = |flying: &mut JoinSet<(Instant, Result<(), BlockError>)>| {
        let (started, request) = (Instant::now(), work.next(&unit));
        flying.spawn(async move { (started, request.await) });
    };
    (0..plan.depth).for_each(|_| start(&mut flying));
    while let Some(ended) = flying.join_next().await {
        let (started, result) = ended.map_err(|e| e.to_string())?;
        result.map_err(|e| e.to_string())?;
        let now = Instant::now();
        latencies.add(now - started);
        requests += 1;
        if now - begin < plan.time {
            start(&mut flying);
        }
    }
    let took = begin.elapsed();
    let processor = processor_time().saturating_sub(processor_before);
    Ok(Measured { plan: *plan, requests, took, latencies, processor })
}

struct Work {
    plan: Plan,
    /// Blocks of the plan's size on the unit.
    places: u64,
    random: u64,
    sequence: u64,
    content: Bytes,
}

impl Work {
    fn next(&mut self, unit: &Arc<IscsiDevice>) -> IoFuture<()> {
        // xorshift64.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let number = if self.plan.pattern.is_random() { self.random } else { self.sequence };
        self.sequence += 1;
        let at = ByteOffset(number % self.places * self.plan.block);
        if self.plan.pattern.writes() {
            return unit.write(at, vec![self.content.clone()], Durability::Cached);
        }
        let read = unit.read(at, ByteLen(self.plan.block));
        Box::pin(async move { read.await.map(drop) })
    }
}

const SEED: u64 = 0x9E37_79B9_7F4A_7C15;

/// Bytes that no store can make smaller.
fn content(len: u64) -> Bytes {
    let mut state = SEED;
    let mut bytes = Vec::with_capacity(len as usize);
    while (bytes.len() as u64) < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len as usize);
    bytes.into()
}

/// User and kernel time of this process, in the kernel's ticks of 10 ms.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The program's name may hold blanks; what follows the last parenthesis does not. utime and stime are fields 14
    // and 15 of proc(5), the first behind the name is field 3.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Latencies in buckets that are 1/32 wide.
#[derive(Debug, Default)]
struct Histogram {
    buckets: BTreeMap<u64, u64>,
    count: u64,
}

impl Histogram {
    fn add(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let shift = (64 - nanos.leading_zeros()).saturating_sub(6);
        *self.buckets.entry(nanos >> shift << shift).or_default() += 1;
        self.count += 1;
    }

    /// The latency that `share` of all requests do not exceed by more than a bucket.
    fn percentile(&self, share: f64) -> Duration {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (nanos, count) in &self.buckets {
            seen += count;
            if seen >= wanted {
                return Duration::from_nanos(*nanos);
            }
        }
        Duration::ZERO
    }
}

impl Measured {
    fn rate(&self) -> f64 {
        self.requests as f64 / self.took.as_secs_f64()
    }

    fn megabytes(&self) -> f64 {
        self.rate() * self.plan.block as f64 / 1e6
    }

    fn micros(&self, share: f64) -> f64 {
        self.latencies.percentile(share).as_secs_f64() * 1e6
    }

    fn processor_share(&self) -> f64 {
        self.processor.as_secs_f64() / self.took.as_secs_f64() * 100.0
    }

    fn processor_micros(&self) -> f64 {
        self.processor.as_secs_f64() * 1e6 / (self.requests as f64).max(1.0)
    }

    pub fn text(&self) -> String {
        let Plan { pattern, depth, block, .. } = self.plan;
        format!(
            "{} of {block} bytes, depth {depth}, {:.1} s\nIOPS  {:>12.0}\nMB/s  {:>12.1}\np50   {:>12.0} us\np99   {:>12.0} us\n\
             CPU   {:>12.1} % of one processor, {:.1} us a request\n",
            pattern.name(),
            self.took.as_secs_f64(),
            self.rate(),
            self.megabytes(),
            self.micros(0.5),
            self.micros(0.99),
            self.processor_share(),
            self.processor_micros(),
        )
    }

    pub fn json(&self) -> Value {
        let Plan { pattern, depth, block, .. } = self.plan;
        json!({
            "pattern": pattern.name(),
            "block_bytes": block,
            "depth": depth,
            "seconds": self.took.as_secs_f64(),
            "requests": self.requests,
            "iops": self.rate(),
            "megabytes_per_second": self.megabytes(),
            "latency_p50_us": self.micros(0.5),
            "latency_p99_us": self.micros(0.99),
            "cpu_percent": self.processor_share(),
            "cpu_us_per_request": self.processor_micros(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_are_understood_and_nonsense_is_not() {
        assert_eq!((parse_block("512"), parse_block("4K"), parse_block("1m")), (Ok(512), Ok(4096), Ok(1 << 20)));
        for bad in ["", "K", "1G", "0", "128M", "-4K", "4KK"] {
            assert!(parse_block(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn percentiles_are_within_a_bucket() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|micros| histogram.add(Duration::from_micros(micros)));
        for (share, expected) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = histogram.percentile(share).as_secs_f64() * 1e6;
            assert!(found <= expected && found >= expected * 0.96, "{share}: {found}");
        }
        assert_eq!(Histogram::default().percentile(0.5), Duration::ZERO);
    }
}
