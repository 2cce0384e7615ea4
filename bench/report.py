from programs import ROOT
PAGE = ROOT / "docs/benchmarks.md"
