"""One priority's waiting line: who came first, and who shares a prefix with whom.

How a pack is filled from a line:

1. The oldest job first, and with it its company: the jobs that wait on the same prefix, which cost only their response.
2. A company that fits a pack of its own is not split to use up the end of one, unless it is the first that this line
   puts into the pack.
3. The first job that does not fit closes the pack for all but company of prefixes that are in it already.

No job is passed over for ever: a pack that starts empty starts with the oldest job, which always fits, and those that
pass it ride on prefixes brought before its turn. So the k-th oldest job is the oldest after at most k such packs.
"""

from collections.abc import Iterable, Iterator

from app.packing import PackBuilder
from app.serving.jobs import Job, Prefix


class WaitingLine:
    """Jobs in order of arrival, each removable at any time."""

    def __init__(self) -> None:
        self.num_tokens = 0
        """Tokens to compute if all that wait here shared their prefixes."""
        self._jobs: dict[Job, None] = {}
        self._companies: dict[Prefix, dict[Job, None]] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(tuple(self._jobs))

    def __contains__(self, job: Job) -> bool:
        return job in self._jobs

    def add(self, job: Job) -> None:
        """Put `job` at the end."""
        company = self._companies.setdefault(job.prefix, {})
        self.num_tokens += job.num_response_tokens + (0 if company else job.num_prefix_tokens)
        company[job] = None
        self._jobs[job] = None

    def remove(self, job: Job) -> None:
        """Take `job` out, wherever it stands."""
        del self._jobs[job]
        company = self._companies[job.prefix]
        del company[job]
        self.num_tokens -= job.num_response_tokens
        if not company:
            del self._companies[job.prefix]
            self.num_tokens -= job.num_prefix_tokens

    def take(self, builder: PackBuilder, present: Iterable[Prefix]) -> list[Job]:
        """Move jobs into `builder` by the rules above; `present` are prefixes that it already holds."""
        taken = [job for prefix in present for job in self._take_company(prefix, builder)]
        first = True
        while self._jobs:
            oldest = next(iter(self._jobs))
            room_tokens = builder.token_budget - builder.num_tokens
            if builder.cost_tokens(oldest.conversation) > room_tokens:
                break
            if not first and room_tokens < self._company_tokens(oldest) <= builder.token_budget:
                break
            taken += self._take_company(oldest.prefix, builder)
            first = False
        return taken

    def _company_tokens(self, job: Job) -> int:
        company = self._companies[job.prefix]
        return job.num_prefix_tokens + sum(member.num_response_tokens for member in company)

    def _take_company(self, prefix: Prefix, builder: PackBuilder) -> list[Job]:
        taken = []
        for job in self._companies.get(prefix, ()):
            # The length first: it refuses most of a long company without hashing its prefix again.
            fits = builder.num_tokens + job.num_response_tokens <= builder.token_budget
            if fits and builder.try_add(job.conversation):
                taken.append(job)
        for job in taken:
            self.remove(job)
        return taken
