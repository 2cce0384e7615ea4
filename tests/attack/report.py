"""What came of each attack: verdicts, the table on the terminal, and the one in `docs/security.md`."""

from dataclasses import dataclass

from attacks import Attack, Seen

BEGIN, END = "<!-- made by `make attack` -->", "<!-- end of what `make attack` makes -->"


@dataclass
class Row:
    """One attack and what it did to others."""

    attack: Attack
    seen: Seen
    before: tuple
    during: tuple
    asked: int
    server: tuple
    agent: tuple
    cpu: float
    wrong: list

    def cells(self):
        p99 = f"{self.before[1]:.1f} → {self.during[1]:.1f} ms" if self.asked else "no request"
        return [
            self.attack.name, self.seen.tried, self.seen.happened, p99,
            f"{self.server[0]:.0f} → {self.server[1]:.0f} MiB", f"{self.agent[0]:.0f} → {self.agent[1]:.0f} MiB",
        ]


def on_terminal(row):
    print(f"  {row.attack.name}\n      must: {row.attack.must}\n      {row.seen.tried}: {row.seen.happened}")
    print(f"      bystander: {row.asked} requests, p50 {row.before[0]:.2f} → {row.during[0]:.2f} ms, "
          f"p99 {row.before[1]:.2f} → {row.during[1]:.2f} ms")
    print(f"      server {row.server[0]:.1f} → {row.server[1]:.1f} MiB, agents {row.agent[0]:.1f} → {row.agent[1]:.1f} MiB, "
          f"server's processor time {row.cpu:.0%} of a core")
    for words in row.wrong:
        print(f"      NOT SO: {words}")
    print("      holds" if not row.wrong else "      DOES NOT HOLD", flush=True)


def as_markdown(rows):
    lines = [
        f"{len(rows)} attacks. p99 is the bystander's, before and during; memory is what is resident, before and at its peak.",
        "", "| attack | how many | what the attacker gets | p99 | server | agents |", "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row.cells()) + " |" for row in rows]
    return "\n".join(lines)


def write(page, rows):
    """Puts the table between its marks."""
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{as_markdown(rows)}\n\n{END}{after}")
