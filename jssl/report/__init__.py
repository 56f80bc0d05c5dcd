"""One report a run, `WORKDIR/report.html`: a page that needs no network and no other file.

`Reporter` rewrites it while a run trains, `at_the_end` adds what its network shows of the data, and
`report_run` makes it from the workdir of any run.
"""

from jssl.report.compare import compare_runs as compare_runs
from jssl.report.document import NAME as NAME
from jssl.report.document import Reporter as Reporter
from jssl.report.document import write_report as write_report
from jssl.report.feature_map import check_map as check_map
from jssl.report.make import at_the_end as at_the_end
from jssl.report.make import report_run as report_run
from jssl.report.sheet import pictures_of as pictures_of
