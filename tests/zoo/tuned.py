"""What scripts/tune.py says above an entry: date and code, trials, the choice, its score and the one before."""

import re

TUNED = re.compile(
    r"tuned \d{4}-\d\d-\d\d \(scripts/tune.py, \w+(, \w+)*, NUMERICS_VERSION \d+\): "
    r"(\d+ trials of [\d,]+ steps \(seeds 100 to 102\)|no search); "
    r"best of \d+( \(\d+ made by hand\))? at [\d,]+ steps \(seeds 200 to 202\), "
    r"late return [\d.,-]+ ± [\d.,]+, (before [\d.,-]+ ± [\d.,]+|and it was so before)"
    r"(; \w+ others got as much \(docs/tuning.md\))?"
)
