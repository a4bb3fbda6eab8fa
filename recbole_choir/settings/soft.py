"""How soft groups are made: every choice in one checked object."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

#: Spaces of text, and the grouping input that makes each.
TEXT_SPACES: Final = {"profile": "text", "text_parts": "text_parts", "aligned": "aligned"}
ITEMS: Final = "items"


class SoftRecipe(BaseModel):
    """Soft groups of users; the study behind the defaults is told in ``docs/soft-groups.md``.

    Args:
        kind: ``neighbours``: the k most similar active users, each with a weight; ``prototypes``:
            memberships in spherical k-means prototypes of active users, at linear cost;
            ``factors``: everybody, by the cosine itself, at linear cost and without a search.
        spaces: Where similarity is measured, side by side with equal weight. ``items``: truncated
            SVD of tf-idf weighted purchases; the name of an item field (``category``, a product
            type): the same of its values; ``profile``, ``text_parts``, ``aligned``: the vectors of
            the grouping inputs ``text``, ``text_parts`` and ``aligned``.
        svd_dim: Dimensions of a space of behaviour.
        drop_first: Leave out the leading component of a space of behaviour, which holds
            popularity.
        k: Neighbours of a user.
        power: A neighbour's weight is ``max(cosine, 0) ^ power``.
        n_prototypes: K; fewer where there are fewer than two active users to a prototype.
        temperature: Memberships are the softmax of cosines divided by it.
        min_purchases: Purchases that make a user active: only active users are neighbours, and
            prototypes are fitted on them. Of factors, those that users without purchases are like.
        cold: For users that no space knows: ``attributes``: similar by their attributes;
            ``profile``: by the embedding of a profile that holds their attributes alone; ``none``.
        control: ``permuted``: every user gets another's weights; ``random``: similarity of random
            vectors in place of ``spaces``. For studies: a gain they give too is no gain.
        own_vectors: Also keep vectors of users and items, for each user's own score of an item
            (``use_own_scores``, a control).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["neighbours", "prototypes", "factors"] = "neighbours"
    spaces: list[str] = Field(default=["items", "category"], min_length=1)
    svd_dim: int = Field(default=128, ge=1)
    drop_first: bool = False
    k: int = Field(default=300, ge=1)
    power: float = Field(default=3.0, gt=0)
    n_prototypes: int = Field(default=60, ge=1)
    temperature: float = Field(default=0.1, gt=0)
    min_purchases: int = Field(default=30, ge=1)
    cold: Literal["attributes", "profile", "none"] = "attributes"
    control: Literal["none", "permuted", "random"] = "none"
    own_vectors: bool = False

    @field_validator("spaces")
    @classmethod
    def _different(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("expected each space once")
        return value

    @property
    def reads_text(self) -> bool:
        """Whether anything here embeds text."""
        spaces = self.control != "random" and any(name in TEXT_SPACES for name in self.spaces)
        return spaces or self.cold == "profile"

    @property
    def reads_profiles(self) -> bool:
        """Whether a space reads the users' written profiles."""
        return self.control != "random" and bool({"profile", "aligned"} & set(self.spaces))
