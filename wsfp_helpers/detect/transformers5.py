"""groundingdino-py 0.4.0 with transformers 5, which removed a method that its BERT wrapper calls."""

import torch
from torch import Tensor, nn


class BertWarper(nn.Module):
    """The wrapper's work with calls that transformers 4 and 5 both have; its state-dict keys are the same."""

    def __init__(self, bert_model: nn.Module) -> None:
        super().__init__()
        self.config, self.embeddings = bert_model.config, bert_model.embeddings
        self.encoder, self.pooler = bert_model.encoder, bert_model.pooler

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Hidden states ``(B, T, d)``; the mask is ``(B, T)``, or ``(B, T, T)`` with one row a token."""
        tokens = self.embeddings(input_ids=input_ids, position_ids=position_ids, token_type_ids=token_type_ids)
        mask = attention_mask[:, None] if attention_mask.dim() == 3 else attention_mask[:, None, None]
        blocked = (1 - mask.to(tokens.dtype)) * torch.finfo(tokens.dtype).min
        return {"last_hidden_state": self.encoder(tokens, attention_mask=blocked)[0]}


def replace_bert_warper() -> None:
    """Put :class:`BertWarper` in the place of the package's class; no file of the package changes."""
    import groundingdino.models.GroundingDINO.groundingdino as module

    module.BertModelWarper = BertWarper
