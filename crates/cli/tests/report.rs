//! `report`: one page about runs, whatever their files hold, and a page that follows them.

mod common;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use common::{Place, fails, object, stdout};

/// A run's files without a run: `steps` steps with everything that a run may write.
fn synthetic(place: &Place, name: &str, steps: u64) {
    let run = place.path(name);
    fs::create_dir_all(&run).unwrap();
    let config = format!("seed = 3\nmemory = \"64 MiB\"\n[train]\nsteps = {steps}\nkeep = 5\n");
    fs::write(run.join("run.toml"), config + "[model]\nwidth = 64\nlayers = 2\n").unwrap();
    fs::write(run.join("env.json"), r#"{"cpu":"some processor","threads":2,"commit":null}"#)
        .unwrap();
    let ledger = r#"{"weights":{"peak":1048576},"total":{"peak":3145728}}"#;
    fs::write(run.join("ledger.json"), ledger).unwrap();
    let plan = r#"{"by_tag":{"weights":1150000},"total_bytes":3300000}"#;
    fs::write(run.join("plan.json"), plan).unwrap();
    let mut lines = String::new();
    for step in 1..=steps {
        let loss = 2.0 + 4.0 / (1.0 + step as f64 / 100.0) + (step % 7) as f64 / 20.0;
        writeln!(
            lines,
            r#"{{"step":{step},"time":{step},"loss":{loss},"lr_multiplier":0.5,"lr":{{"rest":0.001}},"grad_norm":0.7,"tokens":{},"tok_s":900,"wait":0.01,"entropy":2.5,"power_w":60,"bytes":{{"weights":1048576,"grads":{},"total":2097152}}}}"#,
            step * 64,
            500_000 + step % 3
        )
        .unwrap();
    }
    let last = [
        r#""val_loss":2.5,"val_ppl":12.2,"val_bpb":1.25,"best":true,"ema_loss":2.4,"ema_bpb":1.2,"compile":{"samples":20,"parsed":9,"compiled":5,"rate":0.25,"low":0.11,"high":0.47}"#,
        r#""samples":[{"prompt":"fn main","text":"() { one_sample(); }"}]"#,
        r#""event":"alarm","kind":"spike","text":"the loss rose""#,
    ];
    for rest in last {
        writeln!(lines, r#"{{"step":{steps},"time":{steps},{rest}}}"#).unwrap();
    }
    fs::write(run.join("metrics.jsonl"), lines + "{\"step\":9999,\"lo").unwrap();
}

fn page(place: &Place, run: &str) -> String {
    place.smidgen(&["report", run]).assert().success();
    fs::read_to_string(place.path(run).join("report.html")).unwrap()
}

/// Every element that is opened is closed, in the right order, and attributes are quoted.
fn well_formed(text: &str) {
    const VOID: [&str; 4] = ["meta", "!doctype", "br", "link"];
    let mut open: Vec<String> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let after = &rest[at + 1..];
        let end = after.find('>').expect("a tag that ends");
        let (tag, then) = (&after[..end], &after[end + 1..]);
        assert!(!tag.contains('<') && tag.matches('"').count().is_multiple_of(2), "<{tag}>");
        rest = then;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "closed out of order");
            continue;
        }
        let name = tag.split_whitespace().next().expect("a name").to_lowercase();
        if tag.ends_with('/') || VOID.contains(&name.as_str()) {
            continue;
        }
        if name == "style" || name == "script" {
            rest = &rest[rest.find(&format!("</{name}>")).expect("an end")..];
        }
        open.push(name);
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

/// Nothing but a namespace, which is a name, points out of the page.
fn self_contained(text: &str) {
    let text = text.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for what in ["http:", "https:", "src=", "@import", "url(", "<link", "<script", "<iframe"] {
        assert!(!text.contains(what), "`{what}` in the page");
    }
}

#[test]
fn a_whole_run_has_every_part() {
    let place = Place::new();
    synthetic(&place, "run", 300);
    let page = page(&place, "run");
    well_formed(&page);
    self_contained(&page);
    let charts = [
        "loss",
        "bpb",
        "compile",
        "rate",
        "throughput",
        "memory",
        "gradients",
        "wait",
        "entropy",
        "power",
    ];
    for chart in charts {
        assert!(page.contains(&format!("data-chart=\"{chart}\"")), "{chart}");
    }
    for part in [
        "Events",
        "Samples",
        "Bytes",
        "Environment",
        "Configuration",
        "alarm: spike",
        "one_sample()",
        "some processor",
        "1.250",
        "25 %",
        "11 % to 47 %",
        "bits per byte",
        "nats per token",
        "tokens per second",
        "share of the step",
        "3.1 MiB",
        "1.1 MiB",
        "train.keep",
        "keep = 5",
        "limit 64 MiB",
        "averaged weights",
        "prefers-color-scheme: dark",
        "@media print",
    ] {
        assert!(page.contains(part), "`{part}`");
    }
}

#[test]
fn runs_with_next_to_nothing_have_a_page() {
    let place = Place::new();
    for (name, metrics) in [
        ("none", None),
        ("empty", Some("")),
        ("torn", Some("{\"step\":1,\"lo")),
        ("one", Some("{\"step\":1,\"loss\":5.5,\"bytes\":7}\n")),
        (
            "null",
            Some(
                "{\"step\":1,\"loss\":null,\"bytes\":{\"total\":null}}\n{\"step\":2,\"loss\":NaN}\n",
            ),
        ),
        (
            "flat",
            Some("{\"step\":5,\"loss\":0}\n{\"step\":6,\"loss\":0}\n{\"step\":5,\"loss\":1e300}\n"),
        ),
        ("huge", Some("{\"step\":18446744073709551615,\"loss\":1e308,\"grad_norm\":-1}\n")),
        (
            "odd",
            Some(
                "[]\n3\n{\"step\":-1}\n{\"step\":1,\"samples\":{},\"event\":[],\"lr\":[1],\"compile\":7}\n",
            ),
        ),
    ] {
        let run = place.path(name);
        fs::create_dir(&run).unwrap();
        fs::write(run.join("run.toml"), "no toml at all [").unwrap();
        fs::write(run.join("env.json"), "[1, 2").unwrap();
        fs::write(run.join("ledger.json"), "\"text\"").unwrap();
        if let Some(metrics) = metrics {
            fs::write(run.join("metrics.jsonl"), metrics).unwrap();
        }
        let page = page(&place, name);
        well_formed(&page);
        assert_eq!(
            page.contains("No step was done yet"),
            !["one", "flat", "huge"].contains(&name),
            "{name}"
        );
    }
}

#[test]
fn what_files_hold_cannot_become_markup() {
    let place = Place::new();
    let bad =
        "</pre></text></title></style><script>alert(1)</script><img src=x onerror=alert(2)>'\"&";
    let name = "<script>alert(3)<script>";
    let run = place.path(name);
    fs::create_dir(&run).unwrap();
    let quoted = serde_json::to_string(bad).unwrap();
    fs::write(run.join("run.toml"), format!("name = {quoted}\n")).unwrap();
    fs::write(run.join("env.json"), format!("{{{quoted}:{quoted}}}")).unwrap();
    let lines = [
        format!(
            "{{\"step\":1,\"loss\":2,\"lr\":{{{quoted}:1,\"b\":2}},\"bytes\":{{{quoted}:5,\"total\":5}}}}"
        ),
        "{\"step\":2,\"loss\":2}".to_string(),
        format!("{{\"step\":2,\"event\":{quoted},\"kind\":{quoted},\"text\":{quoted}}}"),
        format!("{{\"step\":2,\"samples\":[{{\"prompt\":{quoted},\"text\":{quoted}}}]}}"),
    ];
    fs::write(run.join("metrics.jsonl"), lines.join("\n") + "\n").unwrap();
    let alone = page(&place, name);
    synthetic(&place, "other", 3);
    place.smidgen(&["report", name, "other"]).assert().success();
    let compared = fs::read_to_string(place.path("report.html")).unwrap();
    for page in [alone, compared] {
        well_formed(&page);
        assert!(!page.contains("<script") && !page.contains("<img"), "markup came through");
        assert!(page.contains("&lt;script&gt;"), "the text is shown");
    }
}

#[test]
fn many_steps_and_many_runs_stay_small() {
    let place = Place::new();
    synthetic(&place, "long", 20_000);
    let page = page(&place, "long");
    well_formed(&page);
    assert!(page.len() < 1_000_000, "{} bytes", page.len());
    let names: Vec<String> = (0..12).map(|n| format!("run-{n}")).collect();
    for name in &names {
        synthetic(&place, name, 400);
    }
    let mut command = place.smidgen(&["report", "--out", "deep/er/all.html"]);
    command.args(&names).assert().success();
    let page = fs::read_to_string(place.path("deep/er/all.html")).unwrap();
    well_formed(&page);
    self_contained(&page);
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
}

#[test]
fn several_runs_are_compared() {
    let place = Place::new();
    synthetic(&place, "a", 30);
    synthetic(&place, "b", 60);
    place.smidgen(&["report", "a", "b"]).assert().success();
    let page = fs::read_to_string(place.path("report.html")).unwrap();
    well_formed(&page);
    for part in
        ["compare-loss", "compare-bpb", "compare-memory", "<code>train.steps</code>", "2 runs"]
    {
        assert!(page.contains(part), "`{part}`");
    }
    assert!(
        !page.contains("<code>train.keep</code></th><td><code>5</code></td><td><code>5"),
        "equal keys"
    );
}

#[test]
fn charts_are_files_too() {
    let place = Place::new();
    synthetic(&place, "run", 50);
    let made =
        object(place.smidgen(&["report", "run", "--svg", "plots", "--png", "plots", "--json"]));
    assert_eq!(
        (&made["report"], &made["runs"][0]["steps"]),
        (&"run/report.html".into(), &50.into())
    );
    let charts: Vec<&str> =
        made["charts"].as_array().unwrap().iter().filter_map(|c| c.as_str()).collect();
    assert_eq!(charts.len(), 20);
    for chart in charts {
        let path = place.path(chart);
        if chart.ends_with(".svg") {
            let text = fs::read_to_string(path).unwrap();
            assert!(text.starts_with("<svg ") && text.contains("xmlns="), "{chart}");
            well_formed(&text);
        } else {
            let file = std::io::BufReader::new(fs::File::open(path).unwrap());
            let mut reader = png::Decoder::new(file).read_info().unwrap();
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            let info = reader.next_frame(&mut pixels).unwrap();
            assert_eq!((info.width, info.height), (1920, 960), "{chart}");
        }
    }
}

#[test]
fn a_real_run_has_a_report() {
    let place = Place::new();
    place.train("run", 4, &[]).assert().success();
    let said = stdout(place.smidgen(&["report", "run"]));
    assert!(said.contains("run/report.html"), "{said}");
    let page = fs::read_to_string(place.path("run/report.html")).unwrap();
    well_formed(&page);
    self_contained(&page);
    for part in [
        "data-chart=\"loss\"",
        "data-chart=\"memory\"",
        "finished",
        "best bits per byte",
        ">plan</th>",
    ] {
        assert!(page.contains(part), "`{part}`");
    }
    // The page is no part of the run.
    place.smidgen(&["train", "--resume", "run"]).assert().success();
}

#[test]
fn what_cannot_be_reported_is_named() {
    let place = Place::new();
    fs::write(place.path("file"), "").unwrap();
    synthetic(&place, "run", 3);
    fails(place.smidgen(&["report", "nothing"]), 3, "expected a run directory at nothing");
    fails(place.smidgen(&["report", "text"]), 3, "expected a run directory with `run.toml`");
    fails(place.smidgen(&["report", "run", "file"]), 3, "got a file at file");
    fails(place.smidgen(&["report", "run", "--out", "text"]), 1, "cannot rename into text");
    fails(place.smidgen(&["report", "run", "--out", "file/x.html"]), 1, "cannot create file");
    fails(place.smidgen(&["report", "run", "--port", "0"]), 2, "--follow");
    fails(place.smidgen(&["report", "run", "--follow", "--json"]), 2, "cannot be used with");
    assert!(Path::new(&place.path("run")).join("metrics.jsonl").exists());
}
