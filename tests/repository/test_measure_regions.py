"""The measurements of region labels: rows that differ in what they say, label maps for scores alone, and a cache."""

from dataclasses import asdict, replace

import pytest

from scripts import measure_regions
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.profiles import Source
from wsfp_helpers.stages import load_shipped
from wsfp_helpers.tooling.results import read_results


@pytest.mark.parametrize("table", [measure_regions.STEPS, measure_regions.CONSTANTS])
def test_rows_differ_from_the_method_in_one_setting(table):
    whole = asdict(measure_regions.ALL)
    settings = [(network, asdict(config)) for network, config in table.values()]
    assert settings[0] == (measure_regions.FULL, whole)
    assert all(one not in settings[:i] for i, one in enumerate(settings))
    for name, (_, config) in table.items():
        changed = [key for key, value in asdict(config).items() if value != whole[key]]
        assert len(changed) <= 1
        if " = " in name:
            assert changed == [name.split(" = ")[0]]


def test_label_maps_are_opened_when_the_regions_are_found(tmp_path, monkeypatch, capsys):
    order = []
    find, read = measure_regions.find_regions, Faces.label_map
    monkeypatch.setattr(measure_regions, "find_regions", lambda *given: order.append("regions") or find(*given))
    monkeypatch.setattr(Faces, "label_map", lambda self, i: order.append("truth") or read(self, i))
    monkeypatch.setattr(Source, "open", lambda self: synthfaces(self.split).subset(range(4)))
    monkeypatch.setattr(measure_regions, "run_keyed", lambda config, boxes, work: tmp_path / f"seed{config.train.seed}")
    monkeypatch.setattr(measure_regions, "load_run", lambda run: (load_shipped("full"), None))
    small = replace(measure_regions.ALL, clusters=(16,), rounds=1)
    rows = {"as it is": small, "keep = 0.8": replace(small, keep=0.8)}
    monkeypatch.setattr(measure_regions, "CONSTANTS", {name: (measure_regions.FULL, row) for name, row in rows.items()})
    monkeypatch.setattr("sys.argv", ["measure_regions.py", "constants", str(tmp_path), "--seeds", "0,1"])
    measure_regions.main()
    assert order == (["regions"] + ["truth"] * 4) * 4
    first = read_results("region_constants", tmp_path)
    assert [len(row["seeds"]) for row in first["rows"]] == [2, 2]
    assert all(0 < value < 100 for row in first["rows"] for value in row["seeds"])
    measure_regions.main()
    assert len(order) == 20
    assert read_results("region_constants", tmp_path)["rows"] == first["rows"]
    assert capsys.readouterr().out.count("mean F1") == 8
