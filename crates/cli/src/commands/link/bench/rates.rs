//! How fast a large cache becomes containers and comes back, beside what memory allows.
//!
//! All kinds of work take turns, so that each sees the same machine. Bytes are those that a work has
//! to move: f32 on one side, the container on the other; twice as many as are copied for a copy.
//! On one thread the system also says how long it had a core: what other programs take of the cores
//! is then left out, though not what they take of memory and caches.

use std::hint::black_box;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use smidgen_codec::Ledger;
use smidgen_link::Error;
use smidgen_link::wire::{self, Plan, Precision, Reference};
use smidgen_tensor::Device;

use super::figures::Spread;
use super::{Args, plan};
use crate::out;

/// L, K and E of the cache: 16384 elements a token.
const SHAPE: [usize; 3] = [16, 8, 64];
/// What is measured.
const PRECISIONS: [Precision; 5] =
    [Precision::F16, Precision::Int8, Precision::Int4, Precision::Nf4, Precision::Int2];
/// The system counts a thread's time in ticks of some milliseconds; less is no measurement.
const LEAST_CORE_SECONDS: f64 = 0.1;
/// The parts of a checksum that threads take.
const PART: usize = 1 << 20;

/// Rates of all work.
#[derive(Debug, Serialize)]
pub(super) struct Rates {
    elements: usize,
    repeats: u16,
    rows: Vec<Row>,
}

/// The rate of one kind of work on so many threads.
#[derive(Debug, Serialize)]
struct Row {
    work: &'static str,
    precision: Option<Precision>,
    threads: usize,
    container_bytes: Option<usize>,
    wire_bytes: Option<u64>,
    /// 10^9 elements per second; none for a copy or a checksum.
    g_elements_per_s: Option<Spread>,
    /// The same of all rounds together, per second that the one thread had a core.
    g_elements_per_core_s: Option<f64>,
    /// 10^9 bytes per second, read and written.
    gb_per_s: Spread,
    /// The same of all rounds together, per second that the one thread had a core.
    gb_per_core_s: Option<f64>,
    /// Of a copy on as many threads.
    copy_share: f64,
    /// Over one thread.
    speedup: f64,
}

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Copy,
    Crc,
    Encode,
    Decode,
    Arrays,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Work::Copy => "copy",
            Work::Crc => "crc32c",
            Work::Encode => "encode",
            Work::Decode => "decode",
            Work::Arrays => "arrays",
        }
    }
}

/// Seconds of a work: on the clock, and of its one thread on a core.
#[derive(Clone, Copy, Debug)]
struct Taken {
    wall: f64,
    core: Option<f64>,
}

/// How long this thread has had a core since it began, in seconds; none where the system is silent.
fn core_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanos: u64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanos as f64 / 1e9)
}

/// A cache, its containers, and room for what comes back.
struct Bench {
    cache: Reference,
    plans: Vec<Plan>,
    containers: Vec<Vec<u8>>,
    room: Vec<f32>,
    devices: Vec<Device>,
}

impl Bench {
    fn new(args: &Args) -> Bench {
        let [layers, heads, dim] = SHAPE;
        let tokens = (usize::from(args.mib) << 18) / (2 * layers * heads * dim);
        let threads = usize::from(args.threads);
        let threads = if threads > 1 { vec![1, threads] } else { vec![1] };
        Bench {
            cache: wire::reference(1, layers, heads, dim, tokens),
            plans: PRECISIONS.map(|precision| plan(layers, tokens, precision)).into(),
            containers: vec![Vec::new(); PRECISIONS.len()],
            room: vec![0.0; 2 * tokens * layers * heads * dim],
            devices: threads.into_iter().map(|count| Device::cpu(Ledger::new(), count)).collect(),
        }
    }

    /// Does one work once.
    fn time(&mut self, Task { work, at, device }: Task) -> Result<Taken> {
        let Bench { cache, plans, containers, room, devices } = self;
        let (device, view, options) = (&devices[device], cache.view(), wire::Options::default());
        let (keys, values) = room.split_at_mut(view.keys.len());
        let (plan, container) = (&plans[at], &mut containers[at]);
        let (had, started) = (core_seconds(), Instant::now());
        match work {
            Work::Copy => {
                copy(device, view.keys, keys);
                copy(device, view.values, values);
            }
            Work::Crc => checksum(device, container),
            Work::Encode => {
                wire::encode_into(device, view, plan, container).map_err(Error::from)?;
            }
            Work::Decode => {
                let container = wire::open(device, container, &options)?;
                for part in container.blocks.iter().flat_map(|block| &block.parts) {
                    let sides = part.keys.iter().zip([&mut *keys]);
                    for (codes, room) in sides.chain(part.values.iter().zip([&mut *values])) {
                        codes.decode_into(device, room);
                    }
                }
            }
            Work::Arrays => drop(black_box(wire::decode(device, container, &options)?)),
        }
        let wall = started.elapsed().as_secs_f64().max(1e-9);
        let core = had.zip(core_seconds()).map(|(had, has)| has - had);
        Ok(Taken { wall, core: core.filter(|_| device.team().threads() == 1) })
    }

    /// Bytes that a work reads and writes, of the elements that it is about.
    fn bytes(&self, Task { work, at, .. }: Task) -> usize {
        let (wide, narrow) = (4 * self.room.len(), self.containers[at].len());
        match work {
            Work::Copy => 2 * wide,
            Work::Crc => narrow,
            Work::Encode | Work::Decode | Work::Arrays => wide + narrow,
        }
    }
}

/// Copies with each thread its share, long enough for the copy that passes the caches by.
fn copy(device: &Device, from: &[f32], to: &mut [f32]) {
    let share = from.len().div_ceil(device.team().threads());
    let parts: Vec<_> = from.chunks(share).zip(to.chunks_mut(share)).map(Mutex::new).collect();
    device.team().run(parts.len(), |part| {
        let mut part = parts[part].lock().expect("each part has one task");
        let (from, to) = &mut *part;
        to.copy_from_slice(black_box(from));
    });
}

fn checksum(device: &Device, bytes: &[u8]) {
    let parts: Vec<_> = bytes.chunks(PART).collect();
    device.team().run(parts.len(), |part| {
        black_box(wire::crc(parts[part]));
    });
}

/// One work on one device, for the precision `at` its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Task {
    work: Work,
    at: usize,
    device: usize,
}

/// All tasks of a round. Containers are made before they are read.
fn tasks(devices: usize) -> Vec<Task> {
    let mut tasks = Vec::new();
    for device in 0..devices {
        tasks.push(Task { work: Work::Copy, at: 0, device });
        for work in [Work::Encode, Work::Decode, Work::Arrays] {
            tasks.extend((0..PRECISIONS.len()).map(|at| Task { work, at, device }));
        }
        tasks.push(Task { work: Work::Crc, at: 0, device });
    }
    tasks
}

impl Rates {
    /// Measures on one thread and on `--threads`.
    pub(super) fn measure(args: &Args) -> Result<Rates> {
        let mut bench = Bench::new(args);
        let tasks = tasks(bench.devices.len());
        let mut taken = vec![Vec::new(); tasks.len()];
        // The first round touches every page.
        for round in 0..=args.repeats {
            for (task, taken) in tasks.iter().zip(&mut taken) {
                let time = bench.time(*task)?;
                if round > 0 {
                    taken.push(time);
                }
            }
        }
        let rows = tasks.iter().map(|task| bench.row(*task, &tasks, &taken));
        let rows = rows.collect::<Result<_>>()?;
        Ok(Rates { elements: bench.room.len(), repeats: args.repeats, rows })
    }

    pub(super) fn show(&self) -> Result<()> {
        let mib = (4 * self.elements) >> 20;
        let Rates { elements, repeats, .. } = self;
        out::line(format_args!(
            "\n{elements} elements, {mib} MiB of f32; medians of {repeats} rounds (least to most)\n"
        ))?;
        let heading = [
            "work",
            "precision",
            "threads",
            "G elements/s",
            "per core",
            "GB/s",
            "of copy",
            "per core",
            "speed-up",
        ];
        let mut table = out::Table::new(&heading).left(&[0, 1]);
        for row in &self.rows {
            table.row([
                row.work.to_string(),
                row.precision.map_or(String::new(), |precision| precision.to_string()),
                row.threads.to_string(),
                row.g_elements_per_s.map_or(String::new(), |rate| rate.cell(2)),
                out::decimals(row.g_elements_per_core_s, 2),
                row.gb_per_s.cell(1),
                format!("{:.0} %", 100.0 * row.copy_share),
                out::decimals(row.gb_per_core_s, 1),
                format!("{:.2}", row.speedup),
            ]);
        }
        out::line(table)
    }
}

impl Bench {
    fn row(&self, task: Task, tasks: &[Task], taken: &[Vec<Taken>]) -> Result<Row> {
        let of = |wanted: Task| {
            let at = tasks.iter().position(|task| *task == wanted).expect("it was measured");
            &taken[at]
        };
        let giga = |task: Task, count: usize| {
            Spread::of(of(task).iter().map(|taken| count as f64 / taken.wall / 1e9))
        };
        let cores = of(task).iter().map(|taken| taken.core).sum::<Option<f64>>();
        let cores = cores.filter(|seconds| *seconds >= LEAST_CORE_SECONDS);
        let per_core =
            |count: usize| cores.map(|seconds| (count * of(task).len()) as f64 / seconds / 1e9);
        let Task { work, at, device } = task;
        let coded = !matches!(work, Work::Copy | Work::Crc);
        let gb_per_s = giga(task, self.bytes(task));
        let limit = Task { work: Work::Copy, at: 0, device };
        let one = giga(Task { device: 0, ..task }, self.bytes(task));
        let view = self.cache.view();
        let wire_bytes = wire::wire_bytes(view.shape, view.tokens, &self.plans[at]);
        Ok(Row {
            work: work.name(),
            precision: coded.then_some(PRECISIONS[at]),
            threads: self.devices[device].team().threads(),
            container_bytes: coded.then_some(self.containers[at].len()),
            wire_bytes: coded.then_some(wire_bytes.map_err(Error::from)?),
            g_elements_per_s: coded.then(|| giga(task, self.room.len())),
            g_elements_per_core_s: per_core(self.room.len()).filter(|_| coded),
            gb_per_s,
            gb_per_core_s: per_core(self.bytes(task)),
            copy_share: gb_per_s.median / giga(limit, self.bytes(limit)).median,
            speedup: gb_per_s.median / one.median,
        })
    }
}
