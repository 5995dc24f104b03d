"""The doctor: can these silos be aligned on these anchors? Said before anything is trained, from public anchors alone.

Of private rows it reads which classes a node labels and which columns never change, of held-out rows nothing. What is
tested, why, and how often it is right: docs/doctor.md.
"""

from isogram.doctor.diagnosis import Coverage, Diagnosis, Finding, Group, PairTest, Suspect
from isogram.doctor.examine import examine

__all__ = ["Coverage", "Diagnosis", "Finding", "Group", "PairTest", "Suspect", "examine"]
