//! Fusers in files: what comes back is what went in, and what is none is refused.

use std::path::Path;

use smidgen_link::fuse::{Arrival, FUSERS, LoadedFuser};
use smidgen_link::{Error, Receiver};
use smidgen_model::KeySpace;
use smidgen_store::{Disk, TensorFile, TensorInfo, write_tensors, write_whole};
use smidgen_tensor::Compute;

use crate::models::*;

/// Writes a fuser file again with some of its tensors, under other names, or with other settings.
fn rewrite(path: &Path, rename: impl Fn(&str) -> Option<String>, about: Option<&str>) {
    let file = TensorFile::open(path).unwrap();
    let kept: Vec<(TensorInfo, Vec<u8>)> = file
        .names()
        .iter()
        .filter_map(|name| {
            let view = file.tensor(name).unwrap();
            let info = TensorInfo::new(rename(name)?, view.dtype, view.shape);
            Some((info, view.data.to_vec()))
        })
        .collect();
    let own = file.metadata("smidgen.fuser").unwrap().to_string();
    let about = [("smidgen.fuser", about.unwrap_or(&own))];
    let infos: Vec<TensorInfo> = kept.iter().map(|(info, _)| info.clone()).collect();
    write_whole::<smidgen_store::Error>(&Disk, path, |out| {
        write_tensors(out, path, &infos, &about, |i, out| out.write_all(&kept[i].1))
    })
    .unwrap();
}

#[test]
fn what_is_read_is_what_was_written() {
    let device = device();
    let (sharer, receiver) = (sharer(&device, Compute::F32), receiver(&device, Compute::F32));
    for (variant, space) in FUSERS.iter().zip(SPACES.into_iter().cycle()) {
        let fuser = open_fuser(config(variant.name(), space), &sharer, &receiver);
        let folder = tempfile::tempdir().unwrap();
        // A folder stands for the file in it.
        fuser.fuser.save(&Disk, folder.path(), &fuser.params, &fuser.facts).unwrap();
        let file = folder.path().join("fuser.safetensors");
        for path in [folder.path(), &file] {
            let read = LoadedFuser::open(path, &device).unwrap();
            assert_eq!(read.fuser.config(), fuser.fuser.config());
            assert_eq!(read.facts, fuser.facts);
            assert_eq!(read.fingerprint(), fuser.fingerprint());
            read.check(&sharer.fingerprint(), &receiver.fingerprint()).unwrap();
            let items = items(0..3);
            let caches = shared(&sharer, &items, space);
            let arrivals = [Arrival::whole(caches[1].view(), &items[1].alignment)];
            let answer = |fuser: &LoadedFuser| {
                let linked = Receiver::new(&receiver, fuser).unwrap();
                let read = linked.read(&[&items[1].receiver]).unwrap();
                linked.logits(&read, Some(&arrivals)).unwrap()
            };
            assert!(answer(&read) == answer(&fuser));
        }
        // Copied out of parameters that hold others too, it is the same.
        let taken =
            LoadedFuser::taken_from(&device, &fuser.fuser, &fuser.params, fuser.facts.clone());
        assert_eq!(taken.unwrap().fingerprint(), fuser.fingerprint());
    }
}

#[test]
fn a_file_or_a_folder_without_layers_is_refused() {
    let device = device();
    let (sharer, receiver) = (sharer(&device, Compute::F32), receiver(&device, Compute::F32));
    let fuser = open_fuser(config("c2c", KeySpace::PostRope), &sharer, &receiver);
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("final");
    std::fs::create_dir(&inside).unwrap();
    let save = || fuser.fuser.save(&Disk, &inside, &fuser.params, &fuser.facts).unwrap();
    save();
    // The folder above: upstream scored the receiver alone and never noticed.
    let error = LoadedFuser::open(folder.path(), &device).unwrap_err();
    assert!(matches!(error, Error::NoFuserLayers { .. }), "{error}");
    assert!(error.to_string().contains("not a folder above it"));
    let file = inside.join("fuser.safetensors");
    rewrite(&file, |_| None, None);
    let error = LoadedFuser::open(&file, &device).unwrap_err();
    assert!(matches!(error, Error::NoFuserLayers { layers: 2, .. }), "{error}");
    for (rename, field) in [
        // A layer is missing, a tensor is, one is too many, one has another shape.
        (
            (|name: &str| (!name.starts_with("fuser.1.")).then(|| name.into())) as fn(&str) -> _,
            "layers",
        ),
        (|name| (name != "fuser.1.keys.gate").then(|| name.into()), "fuser.1.keys.gate"),
        (|name| Some(name.replace("1.keys.gate", "1.keys.door")), "fuser.1.keys.door"),
        (
            |name| {
                Some(
                    name.replace("0.keys.in.bias", "x")
                        .replace("0.keys.out.bias", "0.keys.in.bias")
                        .replace("fuser.x", "fuser.0.keys.out.bias"),
                )
            },
            "bias",
        ),
    ] {
        save();
        rewrite(&file, rename, None);
        let error = LoadedFuser::open(&file, &device).unwrap_err().to_string();
        assert!(error.contains(field), "{field}: {error}");
    }
    for about in ["", "{}", r#"{"config":{"variant":"c2x"}}"#] {
        save();
        rewrite(&file, |name| Some(name.into()), Some(about));
        let error = LoadedFuser::open(&file, &device).unwrap_err().to_string();
        assert!(error.contains("smidgen.fuser"), "{error}");
    }
    save();
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    assert!(matches!(LoadedFuser::open(&file, &device), Err(Error::Store(_))));
}

#[test]
fn a_fuser_of_other_models_is_refused() {
    let device = device();
    let (sharer, receiver) = (sharer(&device, Compute::F32), receiver(&device, Compute::F32));
    let fuser = open_fuser(config("lite", KeySpace::PostRope), &sharer, &receiver);
    let stranger = side(&device, Compute::F32, receiver_spec(), 8);
    let wrong = |a: &smidgen_link::Side, b: &smidgen_link::Side| {
        fuser.check(&a.fingerprint(), &b.fingerprint()).unwrap_err().to_string()
    };
    assert!(wrong(&sharer, &stranger).starts_with("`receiver` in "));
    assert!(wrong(&stranger, &receiver).starts_with("`sharer` in "));
    // One bit of one weight.
    let mut changed = side(&device, Compute::F32, receiver_spec(), 2);
    assert_eq!(changed.fingerprint(), receiver.fingerprint());
    let last = changed.params.iter_mut().last().unwrap().1;
    last.value.as_bytes_mut()[0] ^= 1;
    assert!(wrong(&sharer, &changed).starts_with("`receiver` in "));
}
